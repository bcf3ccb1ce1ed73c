// A collector of traces for tests and benchmarks, on 127.0.0.1: keeps what it is sent, and
// misbehaves on demand.
//
//   collector_server [--port N] [--keep-requests N]
//
// prints its port when it is ready (port 0 = any free one) and serves until SIGTERM or SIGINT.
//
//   POST /v1/traces          answers as the last /control said, at first 200 {}
//   POST /control            {status, retry_after, body, latency_ms, hang, close, reset}: how to
//                            answer from now on; what is left out is as at the start
//   POST /control/reset      forgets requests and counts; answers as at the start
//   GET  /control/requests   what was sent, oldest first: {path, headers, body, taken, arrived_us};
//                            body is JSON when it can be read as such, else text
//   GET  /control/stats      {requests, in_flight, max_in_flight, accepted, spans}

#include <csignal>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <vector>

#include "http_server.hpp"

namespace {

using mana_ai::test::HttpServer;
using mana_ai::test::Request;
using mana_ai::test::Response;
using nlohmann::json;

Response json_response(const json& body) {
    Response response;
    response.body = body.dump(-1, ' ', false, json::error_handler_t::replace);
    return response;
}

/// How many spans a body has, without parsing it: benchmarks send many.
std::uint64_t count_spans(const std::string& body) {
    constexpr std::string_view kEachHasOne = "\"traceId\"";
    std::uint64_t count = 0;
    for (auto at = body.find(kEachHasOne); at != std::string::npos;
         at = body.find(kEachHasOne, at + 1)) {
        ++count;
    }
    return count;
}

class Collector {
 public:
    Collector(std::uint16_t port, std::size_t keep_requests)
        : server_(port), keep_requests_(keep_requests) {
        server_.route("POST", "/v1/traces", [this](Request& r) { return take(r); });
        server_.route(
            "POST", "/control", [this](Request& r) { return control(r); }, false);
        server_.route(
            "POST", "/control/reset", [this](Request&) { return reset(); }, false);
        server_.route(
            "GET", "/control/requests", [this](Request&) { return json_response(kept_); }, false);
        server_.route(
            "GET", "/control/stats", [this](Request&) { return stats(); }, false);
    }

    HttpServer& http() { return server_; }

 private:
    Response take(const Request& request) {
        Response response = answer_;
        const bool taken =
            response.status / 100 == 2 && !response.hang && !response.close && !response.reset;
        if (taken) {
            spans_ += count_spans(request.body);
        }
        if (kept_.size() < keep_requests_) {
            json headers = json::object();
            for (const auto& [name, value] : request.headers) {
                headers[name] = value;
            }
            auto body = json::parse(request.body, nullptr, false);
            kept_.push_back({{"path", request.path},
                             {"headers", std::move(headers)},
                             {"body", body.is_discarded() ? json(request.body) : std::move(body)},
                             {"taken", taken},
                             {"arrived_us", request.arrived_us}});
        }
        return response;
    }

    Response control(const Request& request) {
        const auto wanted = json::parse(request.body, nullptr, false);
        if (!wanted.is_object()) {
            Response response;
            response.status = 400;
            return response;
        }
        answer_ = Response();
        answer_.status = wanted.value("status", 200);
        answer_.body = wanted.value("body", std::string("{}"));
        answer_.delay_ms = wanted.value("latency_ms", std::int64_t{0});
        answer_.hang = wanted.value("hang", false);
        answer_.close = wanted.value("close", false);
        answer_.reset = wanted.value("reset", false);
        if (wanted.contains("retry_after")) {
            answer_.headers.emplace_back("Retry-After", wanted["retry_after"].get<std::string>());
        }
        return json_response({{"ok", true}});
    }

    Response reset() {
        answer_ = json_response(json::object());
        kept_ = json::array();
        spans_ = 0;
        server_.reset_statistics();
        return json_response({{"ok", true}});
    }

    Response stats() const {
        const auto& counted = server_.statistics();
        return json_response({{"requests", counted.requests},
                              {"in_flight", counted.in_flight},
                              {"max_in_flight", counted.max_in_flight},
                              {"accepted", counted.accepted},
                              {"spans", spans_}});
    }

    HttpServer server_;
    std::size_t keep_requests_;
    Response answer_ = json_response(json::object());
    json kept_ = json::array();
    std::uint64_t spans_ = 0;
};

HttpServer* stopped_by_signal = nullptr;

void on_signal(int) {
    stopped_by_signal->stop();
}

}  // namespace

int main(int count, char** values) {
    std::uint16_t port = 0;
    std::size_t keep_requests = 5000;
    for (int i = 1; i + 1 < count; i += 2) {
        const unsigned long number = std::strtoul(values[i + 1], nullptr, 10);
        if (std::strcmp(values[i], "--port") == 0) {
            port = static_cast<std::uint16_t>(number);
        } else if (std::strcmp(values[i], "--keep-requests") == 0) {
            keep_requests = number;
        } else {
            std::cerr << "usage: collector_server [--port N] [--keep-requests N]\n";
            return 2;
        }
    }
    try {
        Collector collector(port, keep_requests);
        stopped_by_signal = &collector.http();
        std::signal(SIGTERM, on_signal);
        std::signal(SIGINT, on_signal);
        std::cout << collector.http().port() << std::endl;
        collector.http().run();
    } catch (const std::exception& error) {
        std::cerr << "collector_server: " << error.what() << '\n';
        return 1;
    }
    return 0;
}
