// The implementation of HttpServer: libmicrohttpd's callbacks and the list of connections.
#pragma once

#include <microhttpd.h>

#include <list>
#include <map>
#include <memory>
#include <optional>
#include <string>

#if MHD_VERSION < 0x00097500
#error "mana_ai needs libmicrohttpd 0.9.75 or later"
#endif

#include "http_framing.hpp"
#include "mana_ai/net/http_server.hpp"
#include "mana_ai/net/timer.hpp"

namespace mana_ai::net::detail {

// One connection; a request of it may follow another.
struct HttpPeer {
    int fd = -1;
    std::string address;   // its bytes; an IPv6 client counts as its network of 64 bits
    int64_t since_us = 0;  // end of the previous answer, or the start
    MHD_Connection* waiting = nullptr;  // suspended until a handler answers
    bool shut_down = false;
};

// One request and its answer. Owned by libmicrohttpd's connection and by its HttpReply.
struct HttpExchange : std::enable_shared_from_this<HttpExchange> {
    HttpListener* listener = nullptr;      // null once the request has ended
    MHD_Connection* connection = nullptr;  // same
    HttpPeer* peer = nullptr;
    HttpServerRequest request;
    std::string uri;                  // as sent
    const char* uri_start = nullptr;  // in what was received
    std::string method;
    std::string path_label = "other";
    bool head_seen = false;
    bool ambiguous = false;        // two parsers could read different requests from it
    std::optional<HeadWalk> walk;  // while the head is read
    std::optional<HttpAnswer> answer;
    int sent_status = 0;
    int64_t started_us = 0;

    void send(HttpAnswer value);
};

class HttpListener {
 public:
    HttpListener(EventLoop& loop, HttpServerOptions options);
    ~HttpListener();
    HttpListener(const HttpListener&) = delete;
    HttpListener& operator=(const HttpListener&) = delete;

    void route(std::string method, std::string path, HttpServer::Handler handler);
    int port() const noexcept { return port_; }
    size_t connections() const noexcept { return peers_.size(); }

    // An answer for a suspended request is there.
    void resume(HttpExchange& exchange);

 private:
    struct Callbacks;  // entered from libmicrohttpd's C code

    void run();
    void plan_next_run();
    void sweep();
    void make_room();
    bool may_wait(const HttpPeer& peer) const;
    MHD_Result handle(HttpExchange& exchange, const char* method, const char* version,
                      const char* data, size_t* size);
    void read_head(HttpExchange& exchange, const char* method, const char* version);
    bool is_ambiguous(HttpExchange& exchange) const;
    using Methods = std::map<std::string, HttpServer::Handler>;
    using Routes = std::map<std::string, Methods>;
    Routes::const_iterator find_route(const std::string& path) const;
    void dispatch(HttpExchange& exchange);
    MHD_Result queue(HttpExchange& exchange);
    void ended(HttpExchange& exchange);

    EventLoop& loop_;
    HttpServerOptions options_;
    Routes routes_;                                  // by path
    std::map<std::string, std::string> parameters_;  // "/a/" of a route "/a/:name", and the route
    std::list<HttpPeer> peers_;
    Timer run_timer_;
    Timer sweep_timer_;
    MHD_Daemon* daemon_ = nullptr;
    int epoll_fd_ = -1;
    int port_ = 0;
    bool stopping_ = false;
};

}  // namespace mana_ai::net::detail
