// A small HTTP/1.1 server on an EventLoop, over libmicrohttpd without any thread of its own.
// docs/contract/interface.md, HTTP endpoints.
//
// Sizes, times and the number of connections are limited. When connections become scarce, the
// client with the most connections loses one first. A request that another parser could read as two
// gets 400, and its connection is closed. Handlers answer at once or later; while one waits, the
// others are served.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "mana_ai/net/event_loop.hpp"

namespace mana_ai::net {

namespace detail {
class HttpListener;
struct HttpExchange;
}  // namespace detail

struct HttpServerRequest {
    std::string method;  // HEAD comes as GET
    std::string path;
    std::string path_parameter;  // decoded; of a route that ends in "/:name"
    // Names in lower case, arguments decoded; the first one of a name counts.
    std::map<std::string, std::string> headers;
    std::map<std::string, std::string> arguments;
    std::string body;
    std::string client;  // identifies the client: the bytes of its address, of IPv6 the first eight

    // As `client`, or, if that is this machine, the client that the proxy on it names: the last
    // address of X-Forwarded-For.
    std::string client_behind_proxy() const;
    // Empty when there is none.
    std::string_view header(const std::string& lower_case_name) const;
    std::string_view argument(const std::string& name) const;
    // The value of a cookie; empty when there is none.
    std::string_view cookie(std::string_view name) const;
};

struct HttpAnswer {
    int status = 200;
    std::string content_type = "application/json; charset=utf-8";
    std::string body;
    // In addition to Content-Type, Content-Length and Date. Without a Cache-Control here the answer
    // gets one that forbids storing it.
    std::vector<std::pair<std::string, std::string>> headers;
};

// {"error": "…"} with the status.
HttpAnswer error_answer(int status, std::string_view error);

// The right to answer one request, once, now or later. If it is destroyed without an answer, it
// answers 500. It may outlive the server and the client.
class HttpReply {
 public:
    explicit HttpReply(std::shared_ptr<detail::HttpExchange> exchange);
    HttpReply(HttpReply&&) noexcept = default;
    HttpReply& operator=(HttpReply&&) = delete;
    ~HttpReply();

    void send(HttpAnswer answer);

 private:
    std::shared_ptr<detail::HttpExchange> exchange_;
};

// The result of one request, for metrics. All three have a limited number of values: an unknown
// method is "other", and so is a path without a route.
struct HttpServed {
    std::string_view method;
    std::string_view path;
    int status = 0;
    int64_t duration_us = 0;  // from the request's first line to the answer's last byte
};

struct HttpServerOptions {
    std::string listen;  // "127.0.0.1:3067", "[::1]:3067"; port 0 = any
    unsigned max_connections = 256;
    // From this number on a new connection closes the longest-waiting one of the client with the
    // most connections.
    unsigned scarce_connections = 224;
    // If more requests of one client wait for a handler's answer, further ones get 503.
    size_t max_waiting_per_address = 64;
    size_t max_header_bytes = size_t{32} << 10;
    size_t max_body_bytes = size_t{64} << 10;
    unsigned idle_timeout_s = 10;
    // From the end of the previous answer to the end of the next one, without the handler's time.
    int64_t request_timeout_us = 30'000'000;
    std::function<void(const HttpServed&)> on_served;
};

class HttpServer {
 public:
    using Handler = std::function<void(const HttpServerRequest&, HttpReply)>;

    // Listens at once. Throws std::system_error if the address is not available. The loop must
    // outlive the server.
    HttpServer(EventLoop& loop, HttpServerOptions options);
    // Requests that wait for an answer end with their connection.
    ~HttpServer();
    HttpServer(const HttpServer&) = delete;
    HttpServer& operator=(const HttpServer&) = delete;

    // A path that ends in "/:name" matches any single non-empty segment there, which becomes the
    // request's path_parameter. GET serves HEAD too. Other methods of a path with routes get 405,
    // other paths 404. An exception of a handler becomes 500.
    void route(std::string method, std::string path, Handler handler);

    int port() const noexcept;
    size_t connections() const noexcept;

 private:
    std::unique_ptr<detail::HttpListener> listener_;
};

}  // namespace mana_ai::net
