// A scripted language model for tests, benchmarks and the demo, speaking the OpenAI-compatible
// format of docs/contract/tick.md on 127.0.0.1.
//
//   model_server [--port N] [--latency-ms N] [--keep-requests N] [--script FILE]
//
// prints its port when it is ready (port 0 = any free one) and serves until SIGTERM or SIGINT.
//
//   POST /v1/chat/completions   plans (planner.hpp), or takes a step of a script (script.hpp): the
//                               one that the prompt names as [[szenario:NAME]], else the default
//                               script. Messages that a real provider would refuse are refused
//                               first (request_rules.hpp)
//   POST /control               sets the default script; with "scenario": NAME that one; with
//                               "match": TEXT that of all requests whose body has the text. The
//                               forms are in script.hpp. Other members:
//                               "latency_ms": the latency of every answer
//                               "rate": {"per_second", "burst", "retry_after_s", "spelling"}: takes
//                               so many requests and answers 429 to the others, with Retry-After,
//                               and says what is left as "openai", "openrouter" or "anthropic"
//                               do; null ends that
//                               "down": STATUS is the answer to everything; 0 ends that
//                               "slow_start": {"seconds", "latency_ms"}: from the next request on
//                               answers take that much longer, decreasing to 0; null ends that
//   POST /control/reset         forgets scripts, requests and counts; restores latency and script
//   GET  /control/requests      the received requests, oldest first: {method, path, headers, body,
//                               arrived_us}; body is JSON when it can be read as such, else text
//   GET  /control/bodies        the bodies of these, as they were sent
//   GET  /control/stats         {requests, in_flight, max_in_flight, connections, max_connections,
//                               accepted, arrivals_us}
//   GET  /health                200

#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <deque>
#include <fstream>
#include <iostream>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <unordered_map>
#include <vector>

#include "http_server.hpp"
#include "planner.hpp"
#include "request_rules.hpp"
#include "script.hpp"

namespace {

using mana_ai::test::HttpServer;
using mana_ai::test::Request;
using mana_ai::test::Response;
using mana_ai::test::Script;
using nlohmann::json;

struct Options {
    std::uint16_t port = 0;
    std::int64_t latency_ms = 0;
    std::size_t keep_requests = 5000;
    std::optional<json> script;
};

/// Bodies can be large and many: past this sum the oldest are forgotten, whatever --keep-requests
/// says.
constexpr std::size_t kKeptBytes = 256UL * 1024 * 1024;
constexpr std::size_t kKeptArrivals = 200'000;

Response json_response(const json& body, int status = 200) {
    Response response;
    response.status = status;
    response.body = body.dump(-1, ' ', false, json::error_handler_t::replace);
    return response;
}

/// A token bucket, as providers limit the rate of requests.
struct Rate {
    double per_second = 0;  ///< 0 = no limit
    double burst = 1;
    double retry_after_s = 1;  ///< below 0: not told
    std::string spelling;

    Rate() = default;
    explicit Rate(const json& definition)
        : per_second(definition.at("per_second").get<double>()),
          burst(definition.value("burst", 1.0)),
          retry_after_s(definition.value("retry_after_s", 1.0)),
          spelling(definition.value("spelling", "")) {}

    std::optional<Response> take(std::int64_t now_us) {
        level =
            at_us == 0
                ? burst
                : std::min(burst, level + per_second * static_cast<double>(now_us - at_us) / 1e6);
        at_us = now_us;
        if (level >= 1) {
            level -= 1;
            return std::nullopt;
        }
        Response response = json_response(
            {{"error", {{"message", "Rate limit reached"}, {"code", "rate_limit_exceeded"}}}}, 429);
        if (retry_after_s >= 0) {
            response.headers.emplace_back("Retry-After", std::to_string(retry_after_s));
        }
        tell(response, now_us);
        return response;
    }

    void tell(Response& response, std::int64_t now_us) const {
        const double full_s = (burst - level) / per_second;
        const std::string limit = std::to_string(static_cast<int>(burst));
        const std::string left = std::to_string(static_cast<int>(level));
        if (spelling == "openai") {
            response.headers.emplace_back("x-ratelimit-limit-requests", limit);
            response.headers.emplace_back("x-ratelimit-remaining-requests", left);
            response.headers.emplace_back("x-ratelimit-reset-requests",
                                          std::to_string(static_cast<int>(full_s * 1000)) + "ms");
        } else if (spelling == "openrouter") {
            response.headers.emplace_back("X-RateLimit-Limit", limit);
            response.headers.emplace_back("X-RateLimit-Remaining", left);
            response.headers.emplace_back(
                "X-RateLimit-Reset",
                std::to_string(now_us / 1000 + static_cast<std::int64_t>(full_s * 1000)));
        } else if (spelling == "anthropic") {
            const std::time_t at = now_us / 1'000'000 + static_cast<std::int64_t>(full_s) + 1;
            char text[32];
            std::strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%SZ", std::gmtime(&at));
            response.headers.emplace_back("anthropic-ratelimit-requests-limit", limit);
            response.headers.emplace_back("anthropic-ratelimit-requests-remaining", left);
            response.headers.emplace_back("anthropic-ratelimit-requests-reset", text);
        }
    }

    double level = 0;
    std::int64_t at_us = 0;
};

/// A service that has just been started: a model is loaded, caches are cold.
struct SlowStart {
    double seconds = 0;  ///< 0 = there is none
    double latency_ms = 0;

    SlowStart() = default;
    explicit SlowStart(const json& definition)
        : seconds(definition.at("seconds").get<double>()),
          latency_ms(definition.at("latency_ms").get<double>()) {}

    std::int64_t more_ms(std::int64_t now_us) {
        if (begun_us == 0) {
            begun_us = now_us;
        }
        const double passed = static_cast<double>(now_us - begun_us) / 1e6;
        return passed >= seconds ? 0
                                 : static_cast<std::int64_t>(latency_ms * (1 - passed / seconds));
    }

    std::int64_t begun_us = 0;
};

class ModelServer {
 public:
    explicit ModelServer(const Options& options) : options_(options), server_(options.port) {
        reset();
        server_.route("POST", "/v1/chat/completions", [this](Request& r) { return complete(r); });
        server_.route(
            "POST", "/control", [this](Request& r) { return control(r); }, false);
        server_.route(
            "POST", "/control/reset", [this](Request&) { return reset(); }, false);
        server_.route(
            "GET", "/control/requests", [this](Request&) { return requests(); }, false);
        server_.route(
            "GET", "/control/bodies", [this](Request&) { return bodies(); }, false);
        server_.route(
            "GET", "/control/stats", [this](Request&) { return stats(); }, false);
        server_.route(
            "GET", "/health",
            [](Request&) {
                return json_response({{"ok", true}});
            },
            false);
    }

    HttpServer& http() { return server_; }

 private:
    Response complete(Request& request) {
        if (down_ != 0) {
            turned_away_++;
            keep(request);
            return json_response({{"detail", "down"}}, down_);
        }
        if (rate_.per_second > 0) {
            if (auto refusal = rate_.take(request.arrived_us)) {
                turned_away_++;
                keep(request);
                return std::move(*refusal);
            }
        }
        if (auto refusal = mana_ai::test::refusal_of(request.body)) {
            keep(request);
            return *refusal;
        }
        Response response;
        try {
            Script* script = script_for(request.body);
            const json* step = script == nullptr ? nullptr : script->next(request.body);
            if (step != nullptr) {
                response = mana_ai::test::perform(*step, planner_, request.body);
            } else {
                response.body = planner_.answer(request.body);
            }
        } catch (const std::exception& error) {
            response =
                json_response({{"detail", std::string("model_server: ") + error.what()}}, 500);
        }
        response.delay_ms += latency_ms_ + slow_start_.more_ms(request.arrived_us);
        if (rate_.per_second > 0) {
            rate_.tell(response, request.arrived_us);
        }
        keep(request);
        return response;
    }

    Script* script_for(std::string_view body) {
        for (auto& [text, script] : matched_) {
            if (body.find(text) != std::string_view::npos) {
                return &script;
            }
        }
        if (const auto name = mana_ai::test::scenario_name(body); !name.empty()) {
            const auto found = scenarios_.find(std::string(name));
            if (found == scenarios_.end()) {
                throw std::invalid_argument("unknown scenario " + std::string(name));
            }
            return &found->second;
        }
        return default_script_.get();
    }

    Response control(const Request& request) {
        try {
            const auto definition = json::parse(request.body);
            if (definition.is_object() &&
                (definition.contains("rate") || definition.contains("down") ||
                 definition.contains("slow_start"))) {
                if (definition.contains("rate")) {
                    rate_ = definition["rate"].is_null() ? Rate() : Rate(definition["rate"]);
                }
                if (definition.contains("slow_start")) {
                    slow_start_ = definition["slow_start"].is_null()
                                      ? SlowStart()
                                      : SlowStart(definition["slow_start"]);
                }
                down_ = definition.value("down", down_);
                latency_ms_ = definition.value("latency_ms", latency_ms_);
                return json_response({{"ok", true}});
            }
            if (definition.is_object() && definition.contains("latency_ms")) {
                latency_ms_ = definition["latency_ms"].get<std::int64_t>();
                if (!definition.contains("steps")) {
                    return json_response({{"ok", true}});
                }
            }
            Script script(definition);
            if (definition.is_object() && definition.contains("match")) {
                const auto text = definition["match"].get<std::string>();
                std::erase_if(matched_, [&](const auto& one) { return one.first == text; });
                matched_.emplace_back(text, std::move(script));
            } else if (definition.is_object() && definition.contains("scenario")) {
                scenarios_.insert_or_assign(definition["scenario"].get<std::string>(),
                                            std::move(script));
            } else {
                default_script_ = std::make_unique<Script>(std::move(script));
            }
        } catch (const std::exception& error) {
            return json_response({{"detail", error.what()}}, 400);
        }
        return json_response({{"ok", true}});
    }

    Response reset() {
        // Not std::optional: with g++ 16 its emplace() gets a wrong warning of uninitialized
        // memory.
        default_script_ = options_.script ? std::make_unique<Script>(*options_.script) : nullptr;
        scenarios_ = mana_ai::test::built_in_scenarios();
        matched_.clear();
        latency_ms_ = options_.latency_ms;
        rate_ = Rate();
        slow_start_ = SlowStart();
        down_ = 0;
        turned_away_ = 0;
        kept_.clear();
        kept_bytes_ = 0;
        arrivals_.clear();
        server_.reset_statistics();
        return json_response({{"ok", true}});
    }

    Response requests() const {
        json list = json::array();
        for (const auto& request : kept_) {
            json headers = json::object();
            for (const auto& [name, value] : request.headers) {
                headers[name] = value;
            }
            auto body = json::parse(request.body, nullptr, false);
            list.push_back({{"method", request.method},
                            {"path", request.path},
                            {"headers", std::move(headers)},
                            {"body", body.is_discarded() ? json(request.body) : std::move(body)},
                            {"arrived_us", request.arrived_us}});
        }
        return json_response(list);
    }

    Response bodies() const {
        json list = json::array();
        for (const auto& request : kept_) {
            list.push_back(request.body);
        }
        return json_response(list);
    }

    Response stats() const {
        const auto& counted = server_.statistics();
        return json_response({{"requests", counted.requests},
                              {"in_flight", counted.in_flight},
                              {"max_in_flight", counted.max_in_flight},
                              {"connections", counted.connections},
                              {"max_connections", counted.max_connections},
                              {"accepted", counted.accepted},
                              {"turned_away", turned_away_},
                              {"arrivals_us", arrivals_}});
    }

    void keep(Request& request) {
        if (arrivals_.size() < kKeptArrivals) {
            arrivals_.push_back(request.arrived_us);
        }
        if (options_.keep_requests == 0) {
            return;
        }
        kept_bytes_ += request.body.size();
        kept_.push_back(std::move(request));
        while (kept_.size() > options_.keep_requests || kept_bytes_ > kKeptBytes) {
            kept_bytes_ -= kept_.front().body.size();
            kept_.pop_front();
        }
    }

    Options options_;
    HttpServer server_;
    mana_ai::test::Planner planner_;
    std::unique_ptr<Script> default_script_;
    std::unordered_map<std::string, Script> scenarios_;
    std::vector<std::pair<std::string, Script>> matched_;  ///< by a text of the request's body
    std::int64_t latency_ms_ = 0;
    Rate rate_;
    SlowStart slow_start_;
    int down_ = 0;
    std::uint64_t turned_away_ = 0;
    std::deque<Request> kept_;
    std::size_t kept_bytes_ = 0;
    std::vector<std::int64_t> arrivals_;
};

HttpServer* stopped_by_signal = nullptr;

void on_signal(int) {
    stopped_by_signal->stop();
}

[[noreturn]] void usage() {
    std::cerr
        << "usage: model_server [--port N] [--latency-ms N] [--keep-requests N] [--script FILE]\n";
    std::exit(2);
}

Options parse_options(int count, char** values) {
    Options options;
    for (int i = 1; i < count; i += 2) {
        if (i + 1 == count) {
            usage();
        }
        if (std::strcmp(values[i], "--script") == 0) {
            std::ifstream file(values[i + 1]);
            options.script = json::parse(file);
            continue;
        }
        char* end = nullptr;
        const long number = std::strtol(values[i + 1], &end, 10);
        if (*end != '\0' || number < 0) {
            usage();
        }
        if (std::strcmp(values[i], "--port") == 0 && number <= 65535) {
            options.port = static_cast<std::uint16_t>(number);
        } else if (std::strcmp(values[i], "--latency-ms") == 0) {
            options.latency_ms = number;
        } else if (std::strcmp(values[i], "--keep-requests") == 0) {
            options.keep_requests = number;
        } else {
            usage();
        }
    }
    return options;
}

}  // namespace

int main(int count, char** values) {
    try {
        ModelServer server(parse_options(count, values));
        stopped_by_signal = &server.http();
        std::signal(SIGTERM, on_signal);
        std::signal(SIGINT, on_signal);
        std::cout << server.http().port() << std::endl;
        server.http().run();
    } catch (const std::exception& error) {
        std::cerr << "model_server: " << error.what() << '\n';
        return 1;
    }
    return 0;
}
