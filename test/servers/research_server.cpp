// Scripted mana-api and mana-research in one, for tests and benchmarks: web research and deep
// research, as docs/contract/inputs.md describes them, on 127.0.0.1.
//
//   research_server [--port N] [--script FILE]
//
// prints its port when it is ready (port 0 = any free one) and serves until SIGTERM or SIGINT. FILE
// has the form of the body of POST /control.
//
//   POST /api/v1/news-research/discover            two feeds
//   POST /api/v1/news-research/search              two articles
//   POST /api/v1/internal/research/async           accepts a task: task-1, task-2, ...
//   GET  /api/v1/internal/research/async/TASK      queued, then running, and after `polls` of them
//                                                  `outcome`; with an answer when that is completed
//   POST /control          sets any of: "discover", "search", "submit", "poll": a script
//                          (script.hpp) that the endpoint follows before it does the above;
//                          "polls": how often a task is not finished (default 2); "outcome":
//                          completed (default), failed or cancelled; "answer": text of the answer
//   POST /control/reset    as at the start, but tasks keep counting
//   GET  /control/requests the received requests, oldest first: {endpoint, path, headers, body}
//   GET  /control/stats    {discover, search, submit, poll: number of requests; tasks: number of
//                          accepted ones; requests, in_flight, max_in_flight, connections}

#include <csignal>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <fstream>
#include <iostream>
#include <map>
#include <string>
#include <unordered_map>

#include "http_server.hpp"
#include "script.hpp"

namespace {

using mana_ai::test::HttpServer;
using mana_ai::test::Request;
using mana_ai::test::Response;
using mana_ai::test::Script;
using nlohmann::json;

constexpr char kTasks[] = "/api/v1/internal/research/async";
constexpr std::size_t kKeptRequests = 5000;

Response json_response(const json& body, int status = 200) {
    Response response;
    response.status = status;
    response.body = body.dump(-1, ' ', false, json::error_handler_t::replace);
    return response;
}

/// Whether a step says what to answer; otherwise it only changes how.
bool has_answer(const json& step) {
    for (const char* key :
         {"reply", "body", "body_base64", "garbage", "raw_garbage", "oversized_mib", "message"}) {
        if (step.contains(key)) {
            return true;
        }
    }
    return step.value("status", 200) != 200;
}

class ResearchServer {
 public:
    explicit ResearchServer(std::uint16_t port) : server_(port) {
        reset();
        serve("POST", "/api/v1/news-research/discover", "discover", &ResearchServer::feeds);
        serve("POST", "/api/v1/news-research/search", "search", &ResearchServer::articles);
        serve("POST", kTasks, "submit", &ResearchServer::accept);
        serve("GET", std::string(kTasks) + "/*", "poll", &ResearchServer::report);
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

    // As POST /control does. Throws what is wrong with the definition.
    void configure(const json& definition) {
        for (const auto& [key, value] : definition.items()) {
            if (key == "polls") {
                polls_ = value.get<int>();
            } else if (key == "outcome") {
                outcome_ = value.get<std::string>();
            } else if (key == "answer") {
                answer_ = value.get<std::string>();
            } else {
                scripts_.insert_or_assign(key, Script(value));
            }
        }
    }

 private:
    using Answer = json (ResearchServer::*)(const Request&);

    void serve(const std::string& method, const std::string& path, const std::string& endpoint,
               Answer answer) {
        server_.route(method, path, [this, endpoint, answer](Request& request) {
            return perform(endpoint, answer, request);
        });
    }

    Response perform(const std::string& endpoint, Answer answer, const Request& request) {
        keep(endpoint, request);
        ++counts_[endpoint];
        const auto script = scripts_.find(endpoint);
        const json* step = script == scripts_.end() ? nullptr : script->second.next(request.body);
        if (step == nullptr) {
            return json_response((this->*answer)(request));
        }
        json performed = *step;
        if (!has_answer(performed)) {
            performed["reply"] = (this->*answer)(request);
        }
        return mana_ai::test::perform(performed, planner_, request.body);
    }

    json feeds(const Request& /*request*/) {
        return {{"feeds",
                 {{{"url", "https://feeds.example/eins"},
                   {"title", "Feed eins"},
                   {"description", "Nachrichten"}},
                  {{"url", "https://feeds.example/zwei"},
                   {"title", "Feed zwei"},
                   {"description", "Mehr Nachrichten"}}}}};
    }

    json articles(const Request& /*request*/) {
        return {{"articles",
                 {{{"url", "https://news.example/a1"},
                   {"title", "Erster Artikel"},
                   {"excerpt", "Auszug des ersten Artikels"},
                   {"publishedAt", "2026-05-01T08:00:00.000Z"},
                   {"feedUrl", "https://feeds.example/eins"},
                   {"score", 0.9}},
                  {{"url", "https://news.example/a2"},
                   {"title", "Zweiter Artikel"},
                   {"excerpt", "Auszug des zweiten Artikels"},
                   {"publishedAt", nullptr},
                   {"feedUrl", "https://feeds.example/zwei"},
                   {"score", 0.5}}}}};
    }

    json accept(const Request& request) {
        const std::string id = "task-" + std::to_string(++accepted_);
        const auto body = json::parse(request.body, nullptr, false);
        tasks_[id] = {body.is_object() ? body.value("query", "") : std::string(), 0};
        return {{"taskId", id},
                {"status", "queued"},
                {"providerId", "gemini-deep-research-max"},
                {"costCredits", 25}};
    }

    json report(const Request& request) {
        const std::string id = request.path.substr(sizeof(kTasks));
        Task& task = tasks_[id];
        const int seen = task.polls++;
        json reply = {{"taskId", id}, {"providerId", "gemini-deep-research-max"}};
        if (seen < polls_) {
            reply["status"] = seen == 0 ? "queued" : "running";
            return reply;
        }
        reply["status"] = outcome_;
        if (outcome_ == "completed") {
            reply["result"] = {
                {"answer",
                 {{"query", task.query},
                  {"answer", answer_},
                  {"citations",
                   {{{"url", "https://quelle.example/1"},
                     {"title", "Quelle eins"},
                     {"snippet", "Beleg eins"}},
                    {{"url", "https://quelle.example/2"}, {"title", "Quelle zwei"}}}}}}};
        } else {
            reply["error"] = "scripted";
        }
        return reply;
    }

    Response control(const Request& request) {
        try {
            configure(json::parse(request.body));
        } catch (const std::exception& error) {
            return json_response({{"detail", error.what()}}, 400);
        }
        return json_response({{"ok", true}});
    }

    Response reset() {
        scripts_.clear();
        counts_.clear();
        kept_ = json::array();
        polls_ = 2;
        outcome_ = "completed";
        answer_ = "Die Antwort der langen Recherche.";
        server_.reset_statistics();
        return json_response({{"ok", true}});
    }

    Response stats() {
        const auto& counted = server_.statistics();
        return json_response({{"discover", counts_["discover"]},
                              {"search", counts_["search"]},
                              {"submit", counts_["submit"]},
                              {"poll", counts_["poll"]},
                              {"requests", counted.requests},
                              {"tasks", accepted_},
                              {"in_flight", counted.in_flight},
                              {"max_in_flight", counted.max_in_flight},
                              {"connections", counted.connections}});
    }

    void keep(const std::string& endpoint, const Request& request) {
        if (kept_.size() >= kKeptRequests) {
            return;
        }
        json headers = json::object();
        for (const auto& [name, value] : request.headers) {
            headers[name] = value;
        }
        auto body = json::parse(request.body, nullptr, false);
        kept_.push_back({{"endpoint", endpoint},
                         {"path", request.path},
                         {"headers", std::move(headers)},
                         {"body", body.is_discarded() ? json(request.body) : std::move(body)}});
    }

    struct Task {
        std::string query;
        int polls = 0;
    };

    HttpServer server_;
    mana_ai::test::Planner planner_;
    std::unordered_map<std::string, Script> scripts_;
    std::map<std::string, std::uint64_t> counts_;
    std::unordered_map<std::string, Task> tasks_;
    std::uint64_t accepted_ = 0;
    json kept_;
    int polls_ = 2;
    std::string outcome_;
    std::string answer_;
};

HttpServer* stopped_by_signal = nullptr;

void on_signal(int) {
    stopped_by_signal->stop();
}

}  // namespace

int main(int count, char** values) {
    std::uint16_t port = 0;
    const char* script = nullptr;
    for (int i = 1; i < count; i += 2) {
        if (i + 1 < count && std::strcmp(values[i], "--port") == 0) {
            port = static_cast<std::uint16_t>(std::strtoul(values[i + 1], nullptr, 10));
        } else if (i + 1 < count && std::strcmp(values[i], "--script") == 0) {
            script = values[i + 1];
        } else {
            std::cerr << "usage: research_server [--port N] [--script FILE]\n";
            return 2;
        }
    }
    try {
        ResearchServer server(port);
        if (script != nullptr) {
            std::ifstream file(script);
            server.configure(json::parse(file));
        }
        stopped_by_signal = &server.http();
        std::signal(SIGTERM, on_signal);
        std::signal(SIGINT, on_signal);
        std::cout << server.http().port() << std::endl;
        server.http().run();
    } catch (const std::exception& error) {
        std::cerr << "research_server: " << error.what() << '\n';
        return 1;
    }
    return 0;
}
