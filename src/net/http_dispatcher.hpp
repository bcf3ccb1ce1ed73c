// Connects libcurl's multi handle to the event loop and decides which request is sent next.
//
// Requests queue here and not in libcurl: libcurl 7.88 does not watch the timeout of a request that
// waits for a connection, and counts the wait as time spent connecting.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "curl_handles.hpp"
#include "http_transfer.hpp"
#include "intrusive_list.hpp"
#include "mana_ai/net/event_loop.hpp"
#include "mana_ai/net/http_client.hpp"
#include "mana_ai/net/timer.hpp"

namespace mana_ai::net::detail {

struct HostTag;

// One scheme, host and port. In the dispatcher's ring while a request waits that may start.
struct Host : ListLink<HostTag> {
    TransferList waiting;
    int in_flight = 0;
};

class HttpDispatcher {
 public:
    HttpDispatcher(EventLoop& loop, HttpClientOptions options);
    ~HttpDispatcher();
    HttpDispatcher(const HttpDispatcher&) = delete;
    HttpDispatcher& operator=(const HttpDispatcher&) = delete;

    EventLoop& loop() noexcept { return loop_; }
    void hold(bool on) noexcept;
    size_t in_flight() const noexcept { return in_flight_; }
    size_t waiting() const noexcept { return waiting_; }

    // Registers a request that is not awaited yet, to notify it when the dispatcher is destroyed.
    void adopt(HttpTransfer& transfer) noexcept { fresh_.push_back(transfer); }
    // Starts the request or queues it.
    void submit(HttpTransfer& transfer);
    // Removes a request from the queue or from libcurl, and lets the next one start. The request
    // keeps its data; its easy handle returns to the pool.
    void withdraw(HttpTransfer& transfer) noexcept;
    // Ends a request with one of this client's own errors.
    void fail(HttpTransfer& transfer, TransportError error, std::string_view detail) noexcept;

 private:
    static int on_socket_change(CURL* easy, curl_socket_t fd, int what, void* self,
                                void* socket_data) noexcept;
    static int on_timer_change(CURLM* multi, long timeout_ms, void* self) noexcept;
    static curl_socket_t on_open_socket(void* self, curlsocktype purpose,
                                        struct curl_sockaddr* address) noexcept;
    static int on_close_socket(void* self, curl_socket_t fd) noexcept;

    void act(curl_socket_t fd, int events) noexcept;
    void collect_finished() noexcept;
    void start_waiting() noexcept;
    void start(HttpTransfer& transfer) noexcept;
    void leave(HttpTransfer& transfer) noexcept;
    Host& host_of(const HttpTransfer& transfer);
    void forget_idle_hosts() noexcept;
    void queue_host(Host& host) noexcept;
    CURL* take_easy() noexcept;

    EventLoop& loop_;
    HttpClientOptions options_;
    Timer timer_;  // libcurl's
    std::unordered_map<std::string, Host> hosts_;
    IntrusiveList<Host, HostTag> startable_;  // hosts with a waiting request and room for it
    TransferList fresh_;
    TransferList active_;
    size_t in_flight_ = 0;
    size_t waiting_ = 0;
    bool some_poll_failed_ = false;
    bool held_ = false;
    bool starting_ = false;

    CurlShare share_;  // TLS sessions, for resumption; destroyed last
    CurlMulti multi_;
    std::vector<CurlEasy> idle_;  // room for all, so that returning one cannot fail
};

}  // namespace mana_ai::net::detail
