// One request of an HttpClient, from co_await to its answer: the request, its easy handle while it
// has one, and libcurl's reports about it. HttpDispatcher manages connections and order.
#pragma once

#include <coroutine>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "curl_handles.hpp"
#include "intrusive_list.hpp"
#include "mana_ai/net/event_loop.hpp"
#include "mana_ai/net/http_client.hpp"
#include "mana_ai/net/timer.hpp"

namespace mana_ai::net::detail {

class HttpDispatcher;
class HttpTransfer;
struct Host;
struct TransferTag;

using TransferList = IntrusiveList<HttpTransfer, TransferTag>;

class HttpTransfer : public ListLink<TransferTag> {
 public:
    enum class State {
        Fresh,     // not awaited yet
        Waiting,   // in its host's queue
        InFlight,  // handed to libcurl
        Done,      // has its response; the coroutine is posted or has been resumed
    };

    HttpTransfer(EventLoop& loop, HttpDispatcher& dispatcher, HttpRequest request);
    ~HttpTransfer();

    void await(std::coroutine_handle<> handle);
    HttpResponse take_response() { return std::move(response_); }

    State state() const noexcept { return state_; }
    void set_state(State state) noexcept { state_ = state; }
    const HttpRequest& request() const noexcept { return request_; }
    // Scheme and authority of the URL in lower case, by which connections are counted.
    std::string host_key() const;

    // Options that hold for every request, set once per easy handle; false when out of memory.
    static bool set_common_options(CURL* easy, const HttpClientOptions& options);
    // Lends the request to an easy handle, without copying body and headers.
    CURLcode attach(CURL* easy);
    CURL* easy() const noexcept { return easy_; }
    // Removes every pointer into this request from its handle, which must already be removed from
    // libcurl's multi handle.
    CURL* detach() noexcept;

    // Ends the request with what libcurl says (the easy handle still attached), or with an error of
    // our own, and makes the coroutine ready.
    void finish(CURLcode code) noexcept;
    void fail(TransportError error, std::string_view detail) noexcept;

    // The dispatcher is destroyed and must not be used any more.
    void orphan() noexcept { dispatcher_ = nullptr; }

    Host* host = nullptr;      // set while waiting or in flight
    bool poll_failed = false;  // its socket could not be watched

 private:
    static size_t on_body(char* data, size_t size, size_t count, void* self) noexcept;
    static size_t on_header(char* data, size_t size, size_t count, void* self) noexcept;
    static int on_before_request(void* self, char*, char*, int, int) noexcept;

    const char* request_fault() const noexcept;
    bool has_connected() const noexcept;
    void on_timeout() noexcept;
    void build_header_list();
    TransportError classify(CURLcode code) const noexcept;
    void end() noexcept;

    EventLoop& loop_;
    HttpDispatcher* dispatcher_;
    State state_ = State::Fresh;
    HttpRequest request_;
    HttpResponse response_;
    Waiter waiter_;
    Timer timer_;
    int64_t started_us_ = 0;

    CURL* easy_ = nullptr;
    std::vector<curl_slist> header_nodes_;  // point into request_.headers
    size_t header_bytes_ = 0;
    int attempts_ = 0;
    bool header_complete_ = false;
    bool repeatable_ = false;
    bool repeat_refused_ = false;
    bool too_large_ = false;
    bool out_of_memory_ = false;
    char error_text_[CURL_ERROR_SIZE] = {};
};

}  // namespace mana_ai::net::detail
