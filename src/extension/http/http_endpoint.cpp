#include "mana_ai/extension/http/http_endpoint.hpp"

#include <algorithm>
#include <charconv>
#include <utility>

#include "mana_ai/core/text/json.hpp"
#include "mana_ai/core/text/utf8.hpp"
#include "mana_ai/core/text/wipe.hpp"
#include "mana_ai/core/time/instant.hpp"
#include "mana_ai/crypto/access_key.hpp"
#include "mana_ai/crypto/secret_bytes.hpp"
#include "mana_ai/extension/http/page.hpp"
#include "mana_ai/extension/process/databases.hpp"
#include "mana_ai/pg/guard.hpp"
#include "mana_ai/pg/log.hpp"
#include "mana_ai/pg/metrics.hpp"
#include "mana_ai/pg/settings.hpp"
#include "mana_ai/pg/shared_state.hpp"
#include "mana_ai/pg/time.hpp"

namespace mana_ai {

namespace {

using net::error_answer;
using net::HttpAnswer;
using net::HttpReply;
using net::HttpServerRequest;

constexpr char kTicketCookie[] = "mana_ai_ticket";
constexpr core::Instant kTicketLife = 12 * core::kMicrosPerHour;
constexpr int64_t kDefaultAuditRows = 200;
constexpr int64_t kMaxAuditRows = 1000;
// One user must not delay the others.
constexpr size_t kMaxAuditsOfUser = 4;

HttpAnswer json_answer(const core::Json& json) {
    HttpAnswer answer;
    answer.body = core::dump_json(json);
    return answer;
}

crypto::SecretBytes secret(std::string text) {
    crypto::SecretBytes copy = crypto::SecretBytes::copy_of(text);
    core::wipe(text);
    return copy;
}

crypto::SecretBytes service_key() {
    std::string problem;
    return secret(pg::settings::service_key(problem));
}

HttpAnswer redirect(std::string where, std::string cookie = {}) {
    HttpAnswer answer;
    answer.status = 303;
    answer.content_type.clear();
    answer.headers = {{"Location", std::move(where)}};
    if (!cookie.empty())
        answer.headers.emplace_back("Set-Cookie", std::move(cookie));
    return answer;
}

core::Json tick_json(const TickAnswer& answer) {
    core::Json errors = core::Json::array();
    const char* text = answer.errors;
    for (int i = 0; i < answer.error_count; i++) {
        errors.push_back(text);
        text += strlen(text) + 1;
    }
    return {{"scannedAt", core::to_iso_millis(answer.scanned_at)},
            {"dueMissionCount", answer.due},
            {"plansProduced", answer.produced},
            {"plansWrittenBack", answer.written_back},
            {"parseFailures", answer.parse_failures},
            {"errors", std::move(errors)}};
}

// The token of "Authorization: Bearer …"; empty if there is none.
std::string bearer_token(const HttpServerRequest& request) {
    constexpr std::string_view kScheme = "bearer ";
    const std::string_view value = request.header("authorization");
    if (value.size() <= kScheme.size() ||
        pg_strncasecmp(value.data(), kScheme.data(), kScheme.size()) != 0)
        return {};
    return std::string(value.substr(kScheme.size()));
}

// 1 to kMaxAuditRows; larger numbers are reduced to that. nullopt: not a number.
std::optional<int64_t> audit_limit(std::string_view text) {
    if (text.empty())
        return kDefaultAuditRows;
    int64_t limit = 0;
    const auto [rest, error] = std::from_chars(text.data(), text.data() + text.size(), limit);
    if (rest != text.data() + text.size() || error == std::errc::invalid_argument)
        return std::nullopt;
    if (error == std::errc::result_out_of_range && !text.starts_with('-'))
        return kMaxAuditRows;
    return limit < 1 ? std::nullopt : std::optional(std::min(limit, kMaxAuditRows));
}

void count_request(const net::HttpServed& served) {
    const std::string status = std::to_string(served.status);
    pg::metrics::count(core::Metric::HttpRequests, {served.method, served.path, status});
    pg::metrics::observe(core::Metric::HttpRequestDuration,
                         static_cast<double>(served.duration_us) / core::kMicrosPerSecond,
                         {served.method, served.path, status});
}

// The request's origin if its pages may read users' data (mana_ai.http_cors_origins); else empty.
// Compared exactly.
std::string allowed_origin(const HttpServerRequest& request) {
    const std::string_view origin = request.header("origin");
    if (!origin.empty())
        for (const std::string& allowed : split_list(pg::settings::http_cors_origins()))
            if (origin == allowed)
                return allowed;
    return {};
}

// Lets pages of that origin read the answer. Never all pages, and never with cookies: the token
// comes in a header that the page itself must set.
void allow_origin(HttpAnswer& answer, const std::string& origin) {
    answer.headers.emplace_back("Vary", "Origin");
    if (!origin.empty())
        answer.headers.emplace_back("Access-Control-Allow-Origin", origin);
}

// For requests of pages of other origins.
struct CrossOriginReply {
    HttpReply reply;
    std::string origin;  // empty = none that is allowed

    void send(HttpAnswer answer) {
        allow_origin(answer, origin);
        reply.send(std::move(answer));
    }
};

}  // namespace

// After too many wrong keys of a client its next ones are not checked for a while, so that a key
// cannot be found by trial. Other clients are not affected.
HttpEndpoint::Access HttpEndpoint::access(const HttpServerRequest& request,
                                          std::string_view offered_key) {
    const crypto::SecretBytes key = service_key();
    if (key.empty())
        return Access::NoKey;
    if (offered_key.empty())
        return Access::Refused;
    const std::string client = request.client_behind_proxy();
    if (!wrong_keys_.may_try(client, loop_.now_us()))
        return Access::TooManyWrongKeys;
    if (crypto::is_access_key(offered_key, key.view()))
        return Access::Granted;
    wrong_keys_.failed(client, loop_.now_us());
    return Access::Refused;
}

HttpEndpoint::Access HttpEndpoint::access_by_header(const HttpServerRequest& request) {
    return access(request, request.header("x-service-key"));
}

// The page needs the ticket from the login, or the key. A ticket is too long to be guessed, so it
// is accepted even if wrong keys come from the same address.
HttpEndpoint::Access HttpEndpoint::access_to_page(const HttpServerRequest& request) {
    const crypto::SecretBytes key = service_key();
    if (tickets_.is_good(request.cookie(kTicketCookie), key.view(), pg::now()))
        return Access::Granted;
    return access_by_header(request);
}

HttpAnswer HttpEndpoint::refusal(Access access) {
    switch (access) {
        case Access::NoKey:
            return error_answer(503, "no service key is configured");
        case Access::TooManyWrongKeys: {
            HttpAnswer answer = error_answer(429, "too many wrong keys");
            answer.headers.emplace_back("Retry-After", "1");
            return answer;
        }
        default:
            return error_answer(401, "unauthorized");
    }
}

void HttpEndpoint::listen() {
    net::HttpServerOptions options;
    options.listen = pg::settings::http_listen();
    options.on_served = count_request;
    auto server = std::make_unique<net::HttpServer>(loop_, std::move(options));
    const auto route = [&](const char* method, const char* path, auto member) {
        server->route(
            method, path, [this, member](const HttpServerRequest& request, HttpReply reply) {
                if constexpr (std::is_invocable_v<decltype(member), HttpEndpoint*, HttpReply>)
                    (this->*member)(std::move(reply));
                else
                    (this->*member)(request, std::move(reply));
            });
    };
    route("GET", "/health", &HttpEndpoint::health);
    route("GET", "/metrics", &HttpEndpoint::metrics);
    route("POST", "/internal/tick", &HttpEndpoint::tick);
    route("GET", "/internal/missions/:userId", &HttpEndpoint::missions);
    route("GET", "/api/v1/me/ai-audit", &HttpEndpoint::audit);
    route("OPTIONS", "/api/v1/me/ai-audit", &HttpEndpoint::audit_preflight);
    route("GET", "/api/v1/status", &HttpEndpoint::status);
    route("POST", "/api/v1/stop", &HttpEndpoint::stop);
    route("POST", "/api/v1/resume", &HttpEndpoint::resume);
    route("GET", "/", &HttpEndpoint::page);
    route("POST", "/login", &HttpEndpoint::login);
    route("POST", "/logout", &HttpEndpoint::logout);
    server_ = std::move(server);
}

void HttpEndpoint::poll() {
    queries_.poll();
    status_queries_.poll();
    if (tick_ != nullptr && tick_->ended())
        finish_tick();
}

std::optional<core::Instant> HttpEndpoint::next_at() const {
    const auto first = queries_.next_at();
    const auto second = status_queries_.next_at();
    return first && second ? std::min(first, second) : first ? first : second;
}

// A running worker implies a database with a matching extension, so nothing else is checked: this
// answers fast, however busy the database is.
void HttpEndpoint::health(HttpReply reply) {
    const auto databases = configured_databases();
    const uint32_t database = databases.empty() ? 0 : find_database(databases.front());
    const auto worker = database != 0 ? pg::shared_state::worker_of(database) : std::nullopt;
    const bool usable = worker && worker->state != "starting" && worker->state != "wrong version";
    HttpAnswer answer = json_answer(
        {{"ok", usable},
         {"service", "mana-ai"},
         {"version", MANA_AI_VERSION},
         {"tick",
          {{"enabled", usable ? worker->state != "paused" : pg::settings::tick_enabled()},
           {"running", usable && worker->state != "paused"}}}});
    answer.status = usable ? 200 : 503;
    reply.send(std::move(answer));
}

void HttpEndpoint::metrics(HttpReply reply) {
    ask_once(queries_, "metrics", metrics_wanted_, std::move(reply),
             "text/plain; version=0.0.4; charset=utf-8", "metrics are not available");
}

void HttpEndpoint::ask_once(QueryProcess& queries, const char* question,
                            std::vector<HttpReply>& wanted, HttpReply reply,
                            const char* content_type, const char* problem) {
    wanted.push_back(std::move(reply));
    if (wanted.size() > 1)
        return;
    queries.ask({{"question", question}}, [&wanted, content_type, problem](QueryResult result) {
        for (HttpReply& waiting : std::exchange(wanted, {})) {
            HttpAnswer answer = error_answer(503, problem);
            if (result.answered) {
                answer.status = 200;
                answer.content_type = content_type;
                answer.body = result.text;
            }
            waiting.send(std::move(answer));
        }
    });
}

void HttpEndpoint::tick(const HttpServerRequest& request, HttpReply reply) {
    if (const Access access = access_by_header(request); access != Access::Granted) {
        reply.send(refusal(access));
        return;
    }
    // A second concurrent tick has nothing to do; run_tick() reports the same.
    if (tick_ != nullptr) {
        TickAnswer answer{};
        answer.scanned_at = pg::now();
        answer.error_count = 1;
        strlcpy(answer.errors, "overlap-skipped", sizeof(answer.errors));
        reply.send(json_answer(tick_json(answer)));
        return;
    }
    try {
        const auto databases = configured_databases();
        const uint32_t database = databases.empty() ? 0 : find_database(databases.front());
        if (database == 0) {
            reply.send(error_answer(503, "the database is not available"));
            return;
        }
        tick_ = std::make_unique<TickProcess>(database);
    } catch (const pg::PgError& error) {
        pg::log_warning("the tick that a client asked for could not start: " + error.message);
        reply.send(error_answer(503, "the tick could not start"));
        return;
    }
    tick_reply_.emplace(std::move(reply));
}

void HttpEndpoint::finish_tick() {
    HttpAnswer answer;
    try {
        answer = json_answer(tick_json(tick_->answer("POST /internal/tick")));
    } catch (const pg::PgError& error) {
        // The message could quote a user's text.
        pg::log_warning("the tick that a client asked for failed (SQLSTATE " +
                        error.sqlstate_text() + ")");
        answer = error_answer(503, "the tick failed");
    }
    tick_.reset();
    tick_reply_->send(std::move(answer));
    tick_reply_.reset();
}

// A browser's preflight before it sends a token to another origin than the page's own.
void HttpEndpoint::audit_preflight(const HttpServerRequest& request, HttpReply reply) {
    const std::string origin = allowed_origin(request);
    const bool is_allowed =
        !origin.empty() && request.header("access-control-request-method") == "GET";
    HttpAnswer answer;
    if (is_allowed) {
        answer.status = 204;
        answer.content_type.clear();
        answer.headers = {{"Access-Control-Allow-Methods", "GET"},
                          {"Access-Control-Allow-Headers", "Authorization"},
                          {"Access-Control-Max-Age", "600"}};
    } else {
        answer = error_answer(403, "this origin or method is not allowed");
    }
    allow_origin(answer, is_allowed ? origin : std::string());
    reply.send(std::move(answer));
}

void HttpEndpoint::audit(const HttpServerRequest& request, HttpReply reply) {
    const std::string mission_id(request.argument("missionId"));
    const auto limit = audit_limit(request.argument("limit"));
    const std::string token = bearer_token(request);
    // Shared, since function objects are copied and a reply cannot be.
    auto shared = std::make_shared<CrossOriginReply>(
        CrossOriginReply{std::move(reply), allowed_origin(request)});
    const auto refuse = [](CrossOriginReply& to) {
        HttpAnswer answer = error_answer(401, "unauthorized");
        answer.headers.emplace_back("WWW-Authenticate", "Bearer");
        to.send(std::move(answer));
    };
    if (token.empty()) {
        refuse(*shared);
        return;
    }
    tokens_.check(token, [this, shared, refuse, mission_id, limit](auto user_id) {
        if (!user_id)
            refuse(*shared);
        else if (!limit || core::repair_utf8(mission_id) != mission_id)
            shared->send(error_answer(400, "invalid missionId or limit"));
        else
            read_audit(*user_id, mission_id, *limit,
                       [shared](HttpAnswer answer) { shared->send(std::move(answer)); });
    });
}

void HttpEndpoint::read_audit(const std::string& user_id, const std::string& mission_id,
                              int64_t limit, std::function<void(HttpAnswer)> send) {
    core::Json question = {
        {"question", "audit"}, {"user_id", user_id}, {"mission_id", mission_id}, {"limit", limit}};
    if (size_t& waiting = audits_waiting_[user_id]; waiting++ >= kMaxAuditsOfUser) {
        waiting--;
        send(error_answer(429, "too many requests"));
        return;
    }
    queries_.ask(std::move(question), [this, user_id, send](QueryResult result) {
        if (--audits_waiting_[user_id] == 0)
            audits_waiting_.erase(user_id);
        HttpAnswer answer = error_answer(503, "the audit is not available");
        if (result.answered) {
            answer.status = 200;
            answer.body = std::move(result.text);
        }
        send(std::move(answer));
    });
}

void HttpEndpoint::missions(const HttpServerRequest& request, HttpReply reply) {
    if (const Access access = access_by_header(request); access != Access::Granted) {
        reply.send(refusal(access));
        return;
    }
    const std::string& user_id = request.path_parameter;
    if (core::repair_utf8(user_id) != user_id) {
        reply.send(error_answer(400, "invalid user id"));
        return;
    }
    auto shared = std::make_shared<HttpReply>(std::move(reply));
    core::Json question = {{"question", "missions"}, {"user_id", user_id}};
    status_queries_.ask(std::move(question), [shared](QueryResult result) {
        HttpAnswer answer = error_answer(503, "the database or the extension is not available");
        if (result.answered) {
            answer.status = 200;
            answer.body = std::move(result.text);
        }
        shared->send(std::move(answer));
    });
}

void HttpEndpoint::status(const HttpServerRequest& request, HttpReply reply) {
    if (const Access access = access_to_page(request); access != Access::Granted) {
        reply.send(refusal(access));
        return;
    }
    ask_once(status_queries_, "status", status_wanted_, std::move(reply),
             "application/json; charset=utf-8", "the database or the extension is not available");
}

// The page asks for the key if it gets no data; it contains none itself.
void HttpEndpoint::page(const HttpServerRequest& request, HttpReply reply) {
    const Access access = access_to_page(request);
    reply.send(page_answer(access == Access::Granted ? 200 : refusal(access).status));
}

void HttpEndpoint::login(const HttpServerRequest& request, HttpReply reply) {
    const crypto::SecretBytes offered = secret(form_field(request.body, "key"));
    if (const Access how = access(request, offered.view()); how != Access::Granted) {
        reply.send(redirect(how == Access::TooManyWrongKeys ? "/?login=later" : "/?login=failed"));
        return;
    }
    const core::Instant now = pg::now();
    std::string cookie = std::string(kTicketCookie) + '=' +
                         tickets_.issue(service_key().view(), now, now + kTicketLife) +
                         "; Path=/; HttpOnly; SameSite=Strict; Max-Age=" +
                         std::to_string(kTicketLife / core::kMicrosPerSecond);
    // Behind a TLS proxy the ticket is never sent without TLS.
    if (request.header("x-forwarded-proto") == "https")
        cookie += "; Secure";
    reply.send(redirect("/", std::move(cookie)));
}

void HttpEndpoint::logout(const HttpServerRequest& request, HttpReply reply) {
    tickets_.revoke(request.cookie(kTicketCookie), service_key().view());
    reply.send(redirect(
        "/", std::string(kTicketCookie) + "=; Path=/; HttpOnly; SameSite=Strict; Max-Age=0"));
}

}  // namespace mana_ai
