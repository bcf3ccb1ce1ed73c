// HTTP requests that a coroutine awaits, over libcurl's multi interface on an EventLoop.
//
// docs/contract/tick.md, Transport: http and https only, certificates verified, no redirects, no
// proxy unless set, answers capped in size. HTTP/1.1 keep-alive, HTTP/2 over TLS.
//
// A request other than GET, HEAD or OPTIONS is sent at most once: if a kept connection dies after
// the first byte was written and before the answer, the request fails as Unreachable and the caller
// decides. A connection that is dead before anything was written is replaced silently.
//
// With libcurl older than 7.87 the process must ignore SIGPIPE (PostgreSQL's processes do).
#pragma once

#include <coroutine>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "mana_ai/net/event_loop.hpp"

namespace mana_ai::net {

namespace detail {
class HttpTransfer;
class HttpDispatcher;
}  // namespace detail

struct HttpRequest {
    std::string method = "POST";
    std::string url;
    // Complete "Name: value" lines. They may hold secrets: never part of an error, and the client
    // wipes its copy when the request has ended.
    std::vector<std::string> headers;
    std::string body;
    int64_t timeout_us = 0;  // whole request, waiting for a free connection included; 0 = none
    int64_t connect_timeout_us = 5'000'000;
    size_t max_response_bytes = size_t{8} << 20;
    // Instead of `body`, without a copy of it; not wiped. It outlives the awaitable.
    const std::string* lent_body = nullptr;
};

enum class TransportError {
    None,
    Timeout,
    Unreachable,  // name, connection, TLS, connection lost before the whole answer was there
    TooLarge,     // the answer exceeds max_response_bytes, or the memory there is
    Malformed,    // the answer is not HTTP, or the request cannot be written as HTTP
    Cancelled,    // the client was destroyed
};

// "timeout", "unreachable", ... for logs and metrics; "none" for None.
const char* to_string(TransportError error) noexcept;

struct HttpResponse {
    TransportError error = TransportError::None;
    std::string error_detail;  // printable, at most 256 bytes, without URL credentials or headers
    bool may_have_arrived = false;  // the request, at the service
    int status = 0;                 // 0 when no status line arrived
    std::string body;               // empty when error is not None
    std::string retry_after;        // header values as sent, empty when absent
    std::string rate_limits;        // "name: value" lines of those whose name has "ratelimit" in it
    std::string resolved_model;     // X-Mana-LLM-Resolved: the model that a gateway has chosen
    std::string served_tier;        // X-Gemini-Service-Tier: the tier that has answered
    std::string content_type;
    int64_t duration_us = 0;  // from co_await to the end, waiting for a free connection included
};

struct HttpClientOptions {
    // Both limit requests in flight as well as connections (kept idle ones included). Further
    // requests to a host wait in order of arrival, hosts take turns. Values below 1 count as 1.
    int max_connections_total = 512;
    int max_connections_per_host = 512;
    std::string user_agent;
    std::string proxy;                 // URL; empty = none, whatever the environment says
    std::string ca_file;               // PEM; empty = the system's
    int64_t max_idle_us = 60'000'000;  // a kept connection idle for longer is not used again
};

class HttpClient {
 public:
    class Send;

    // The loop must outlive the client. Throws std::runtime_error when libcurl cannot start.
    HttpClient(EventLoop& loop, HttpClientOptions options);
    explicit HttpClient(EventLoop& loop);
    // Requests in flight end with TransportError::Cancelled, in the loop's next pass. Must not be
    // called from within a coroutine that awaits one of them.
    ~HttpClient();
    HttpClient(const HttpClient&) = delete;
    HttpClient& operator=(const HttpClient&) = delete;

    // `HttpResponse response = co_await client.send(std::move(request));`
    // Starts when awaited. Never throws for a fault of the network or of the request; only
    // std::bad_alloc. Destroying the awaitable cancels the request.
    [[nodiscard]] Send send(HttpRequest request);

    // While on, requests that have not been handed to libcurl wait; those in flight continue.
    void hold(bool on) noexcept;

    size_t in_flight() const noexcept;  // handed to libcurl
    size_t waiting() const noexcept;    // waiting for a free connection

 private:
    std::unique_ptr<detail::HttpDispatcher> dispatcher_;
};

class [[nodiscard]] HttpClient::Send {
 public:
    Send(Send&&) noexcept;
    Send& operator=(Send&&) = delete;
    ~Send();

    bool await_ready() const noexcept { return false; }
    void await_suspend(std::coroutine_handle<> handle);
    HttpResponse await_resume();

 private:
    friend class HttpClient;
    explicit Send(std::unique_ptr<detail::HttpTransfer> transfer) noexcept;
    std::unique_ptr<detail::HttpTransfer> transfer_;
};

}  // namespace mana_ai::net
