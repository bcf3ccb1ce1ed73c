// The HTTP endpoint (docs/contract/interface.md, HTTP endpoints): what each route answers.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "mana_ai/crypto/page_tickets.hpp"
#include "mana_ai/extension/http/query_process.hpp"
#include "mana_ai/extension/http/user_tokens.hpp"
#include "mana_ai/extension/process/tick_process.hpp"
#include "mana_ai/net/failure_limit.hpp"
#include "mana_ai/net/http_server.hpp"

namespace mana_ai {

class HttpEndpoint {
 public:
    explicit HttpEndpoint(net::EventLoop& loop) : loop_(loop), tokens_(loop) {}
    HttpEndpoint(const HttpEndpoint&) = delete;
    HttpEndpoint& operator=(const HttpEndpoint&) = delete;

    // Throws std::system_error if the address of mana_ai.http_listen is not available.
    void listen();
    bool listens() const { return server_ != nullptr; }

    // Continues with queries and ticks; called when the latch was set or next_at() has come.
    void poll();
    std::optional<core::Instant> next_at() const;

 private:
    enum class Access { Granted, Refused, TooManyWrongKeys, NoKey };

    Access access(const net::HttpServerRequest& request, std::string_view offered_key);
    Access access_by_header(const net::HttpServerRequest& request);
    Access access_to_page(const net::HttpServerRequest& request);
    static net::HttpAnswer refusal(Access access);

    void health(net::HttpReply reply);
    void metrics(net::HttpReply reply);
    void tick(const net::HttpServerRequest& request, net::HttpReply reply);
    void audit(const net::HttpServerRequest& request, net::HttpReply reply);
    void read_audit(const std::string& user_id, const std::string& mission_id, int64_t limit,
                    std::function<void(net::HttpAnswer)> send);
    void audit_preflight(const net::HttpServerRequest& request, net::HttpReply reply);
    void missions(const net::HttpServerRequest& request, net::HttpReply reply);
    void status(const net::HttpServerRequest& request, net::HttpReply reply);
    void page(const net::HttpServerRequest& request, net::HttpReply reply);
    void login(const net::HttpServerRequest& request, net::HttpReply reply);
    void logout(const net::HttpServerRequest& request, net::HttpReply reply);
    void stop(const net::HttpServerRequest& request, net::HttpReply reply);
    void resume(const net::HttpServerRequest& request, net::HttpReply reply);
    void brake(const net::HttpServerRequest& request, net::HttpReply reply,
               const std::optional<std::string>& reason);  // nullopt: resumes
    void finish_tick();
    // Any number of clients may ask: those that ask while a query runs share its answer.
    void ask_once(QueryProcess& queries, const char* question, std::vector<net::HttpReply>& wanted,
                  net::HttpReply reply, const char* content_type, const char* problem);

    net::EventLoop& loop_;
    QueryProcess queries_;  // metrics and audits
    QueryProcess
        status_queries_;  // the status and missions read more; the others do not wait for them
    UserTokens tokens_;
    crypto::PageTickets tickets_;
    net::FailureLimit wrong_keys_;
    std::vector<net::HttpReply> metrics_wanted_;
    std::vector<net::HttpReply> status_wanted_;
    std::map<std::string, size_t> audits_waiting_;  // of each user
    std::unique_ptr<TickProcess> tick_;
    std::optional<net::HttpReply> tick_reply_;
    std::unique_ptr<net::HttpServer> server_;  // destroyed first: replies end with it
};

}  // namespace mana_ai
