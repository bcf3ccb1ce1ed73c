#include "http_dispatcher.hpp"

#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <new>
#include <stdexcept>
#include <string_view>
#include <utility>

namespace mana_ai::net::detail {

namespace {

constexpr size_t kMaxRememberedHosts = 64;

HttpClientOptions checked(HttpClientOptions options) {
    options.max_connections_total = std::max(1, options.max_connections_total);
    options.max_connections_per_host =
        std::clamp(options.max_connections_per_host, 1, options.max_connections_total);
    return options;
}

}  // namespace

HttpDispatcher::HttpDispatcher(EventLoop& loop, HttpClientOptions options)
    : loop_(loop),
      options_(checked(std::move(options))),
      timer_(loop, [this] { act(CURL_SOCKET_TIMEOUT, 0); }) {
    start_curl_once();
    share_.reset(curl_share_init());
    multi_.reset(curl_multi_init());
    if (!share_ || !multi_) {
        throw std::runtime_error("could not create libcurl handles");
    }
    bool ok =
        curl_share_setopt(share_.get(), CURLSHOPT_SHARE, CURL_LOCK_DATA_SSL_SESSION) == CURLSHE_OK;
    const auto set = [&](CURLMoption option, auto value) {
        ok = ok && curl_multi_setopt(multi_.get(), option, value) == CURLM_OK;
    };
    set(CURLMOPT_SOCKETFUNCTION, &HttpDispatcher::on_socket_change);
    set(CURLMOPT_SOCKETDATA, this);
    set(CURLMOPT_TIMERFUNCTION, &HttpDispatcher::on_timer_change);
    set(CURLMOPT_TIMERDATA, this);
    set(CURLMOPT_MAXCONNECTS, static_cast<long>(options_.max_connections_total));
    // No more than this run at once anyway; the option makes libcurl close an idle connection to
    // one host before it opens one to another.
    set(CURLMOPT_MAX_TOTAL_CONNECTIONS, static_cast<long>(options_.max_connections_total));
    set(CURLMOPT_MAX_HOST_CONNECTIONS, static_cast<long>(options_.max_connections_per_host));
    if (!ok) {
        throw std::runtime_error("could not set up libcurl");
    }
    idle_.reserve(static_cast<size_t>(options_.max_connections_total));
}

HttpDispatcher::~HttpDispatcher() {
    starting_ = true;  // so that nothing is started any more
    while (!fresh_.empty()) {
        fresh_.front().orphan();
        fresh_.front().unlink();
    }
    const auto cancel = [this](HttpTransfer& transfer) {
        fail(transfer, TransportError::Cancelled, "HTTP client was shut down");
    };
    while (!active_.empty()) {
        cancel(active_.front());
    }
    for (auto& [key, host] : hosts_) {
        while (!host.waiting.empty()) {
            cancel(host.waiting.front());
        }
    }
    idle_.clear();
    const SignalsBlocked blocked;
    multi_.reset();  // closes the connections, which still calls back
}

// ---- order of requests -------------------------------------------------------------------------

void HttpDispatcher::submit(HttpTransfer& transfer) {
    Host& host = host_of(transfer);
    transfer.host = &host;
    transfer.set_state(HttpTransfer::State::Waiting);
    host.waiting.push_back(transfer);
    ++waiting_;
    queue_host(host);
    start_waiting();
}

void HttpDispatcher::hold(bool on) noexcept {
    held_ = on;
    start_waiting();
}

void HttpDispatcher::withdraw(HttpTransfer& transfer) noexcept {
    leave(transfer);
    start_waiting();
}

void HttpDispatcher::fail(HttpTransfer& transfer, TransportError error,
                          std::string_view detail) noexcept {
    leave(transfer);
    transfer.fail(error, detail);
    start_waiting();
}

void HttpDispatcher::leave(HttpTransfer& transfer) noexcept {
    Host* host = std::exchange(transfer.host, nullptr);
    if (host == nullptr) {
        return;
    }
    transfer.unlink();
    if (transfer.state() == HttpTransfer::State::Waiting) {
        --waiting_;
        if (host->waiting.empty()) {
            host->unlink();
        }
        return;
    }
    --in_flight_;
    --host->in_flight;
    queue_host(*host);
    if (transfer.easy() != nullptr) {
        curl_multi_remove_handle(multi_.get(), transfer.easy());
        idle_.emplace_back(transfer.detach());  // within the reserved capacity
    }
}

void HttpDispatcher::queue_host(Host& host) noexcept {
    if (!host.linked() && !host.waiting.empty() &&
        host.in_flight < options_.max_connections_per_host) {
        startable_.push_back(host);
    }
}

void HttpDispatcher::start_waiting() noexcept {
    if (starting_ || held_) {
        return;  // a request that fails at once calls this again; the loop below continues
    }
    starting_ = true;
    while (!startable_.empty() &&
           in_flight_ < static_cast<size_t>(options_.max_connections_total)) {
        Host& host = startable_.front();
        host.unlink();
        HttpTransfer& transfer = host.waiting.front();
        transfer.unlink();
        --waiting_;
        ++in_flight_;
        ++host.in_flight;
        active_.push_back(transfer);
        transfer.set_state(HttpTransfer::State::InFlight);
        queue_host(host);  // at the end: hosts take turns
        start(transfer);
    }
    starting_ = false;
}

void HttpDispatcher::start(HttpTransfer& transfer) noexcept {
    CURL* easy = take_easy();
    if (easy == nullptr) {
        fail(transfer, TransportError::TooLarge, "out of memory");
        return;
    }
    const CURLcode code = transfer.attach(easy);
    if (code != CURLE_OK) {
        fail(transfer, TransportError::Unreachable, curl_easy_strerror(code));
        return;
    }
    const CURLMcode added = curl_multi_add_handle(multi_.get(), easy);
    if (added != CURLM_OK) {
        fail(transfer, TransportError::Unreachable, curl_multi_strerror(added));
    }
}

Host& HttpDispatcher::host_of(const HttpTransfer& transfer) {
    std::string key = transfer.host_key();
    const auto found = hosts_.find(key);
    if (found != hosts_.end()) {
        return found->second;
    }
    if (hosts_.size() >= kMaxRememberedHosts) {
        forget_idle_hosts();
    }
    return hosts_.try_emplace(std::move(key)).first->second;
}

void HttpDispatcher::forget_idle_hosts() noexcept {
    std::erase_if(hosts_, [](const auto& entry) {
        return entry.second.in_flight == 0 && entry.second.waiting.empty();
    });
}

CURL* HttpDispatcher::take_easy() noexcept {
    if (!idle_.empty()) {
        CURL* easy = idle_.back().release();
        idle_.pop_back();
        return easy;
    }
    CurlEasy easy(curl_easy_init());
    if (!easy || !HttpTransfer::set_common_options(easy.get(), options_) ||
        curl_easy_setopt(easy.get(), CURLOPT_SHARE, share_.get()) != CURLE_OK ||
        curl_easy_setopt(easy.get(), CURLOPT_OPENSOCKETFUNCTION, &on_open_socket) != CURLE_OK ||
        curl_easy_setopt(easy.get(), CURLOPT_CLOSESOCKETFUNCTION, &on_close_socket) != CURLE_OK ||
        curl_easy_setopt(easy.get(), CURLOPT_CLOSESOCKETDATA, this) != CURLE_OK) {
        return nullptr;
    }
    return easy.release();
}

// ---- libcurl and the loop ----------------------------------------------------------------------

void HttpDispatcher::act(curl_socket_t fd, int events) noexcept {
    int running = 0;
    {
        const SignalsBlocked blocked;
        curl_multi_socket_action(multi_.get(), fd, events, &running);
    }
    collect_finished();
}

void HttpDispatcher::collect_finished() noexcept {
    int left = 0;
    while (const CURLMsg* message = curl_multi_info_read(multi_.get(), &left)) {
        if (message->msg != CURLMSG_DONE) {
            continue;
        }
        const CURLcode code = message->data.result;  // the message dies with remove_handle
        char* self = nullptr;
        curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, &self);
        auto* transfer = reinterpret_cast<HttpTransfer*>(self);
        if (transfer != nullptr) {
            transfer->finish(code);
            leave(*transfer);
        }
    }
    while (std::exchange(some_poll_failed_, false)) {
        for (HttpTransfer* transfer = active_.first(); transfer != nullptr;) {
            HttpTransfer* next = active_.after(*transfer);
            if (transfer->poll_failed) {
                leave(*transfer);
                transfer->fail(TransportError::Unreachable, "could not watch the connection");
            }
            transfer = next;
        }
    }
    start_waiting();
}

int HttpDispatcher::on_socket_change(CURL* easy, curl_socket_t fd, int what, void* self,
                                     void* /*socket_data*/) noexcept {
    auto& dispatcher = *static_cast<HttpDispatcher*>(self);
    if (what == CURL_POLL_REMOVE) {
        dispatcher.loop_.remove_fd(fd);
        return 0;
    }
    const uint32_t events = ((what & CURL_POLL_IN) != 0 ? uint32_t{EPOLLIN} : 0) |
                            ((what & CURL_POLL_OUT) != 0 ? uint32_t{EPOLLOUT} : 0);
    try {
        if (dispatcher.loop_.watches_fd(fd)) {
            dispatcher.loop_.modify_fd(fd, events);
        } else {
            dispatcher.loop_.add_fd(fd, events, [&dispatcher, fd](uint32_t ready) {
                const int mask = ((ready & (EPOLLIN | EPOLLHUP)) != 0 ? CURL_CSELECT_IN : 0) |
                                 ((ready & EPOLLOUT) != 0 ? CURL_CSELECT_OUT : 0) |
                                 ((ready & EPOLLERR) != 0 ? CURL_CSELECT_ERR : 0);
                dispatcher.act(fd, mask);
            });
        }
    } catch (...) {
        // Returning -1 would break the multi handle permanently; only this request has to fail.
        char* transfer = nullptr;
        curl_easy_getinfo(easy, CURLINFO_PRIVATE, &transfer);
        if (transfer != nullptr) {
            reinterpret_cast<HttpTransfer*>(transfer)->poll_failed = true;
            dispatcher.some_poll_failed_ = true;
            dispatcher.timer_.arm(0);  // so that it is handled
        }
    }
    return 0;
}

int HttpDispatcher::on_timer_change(CURLM* /*multi*/, long timeout_ms, void* self) noexcept {
    auto& dispatcher = *static_cast<HttpDispatcher*>(self);
    if (timeout_ms < 0) {
        dispatcher.timer_.disarm();
    } else {
        dispatcher.timer_.arm(int64_t{timeout_ms} * 1000);
    }
    return 0;
}

curl_socket_t HttpDispatcher::on_open_socket(void* /*self*/, curlsocktype /*purpose*/,
                                             struct curl_sockaddr* address) noexcept {
    // libcurl's own sockets would be inherited by programs that the process starts.
    return ::socket(address->family, address->socktype | SOCK_CLOEXEC, address->protocol);
}

// The only reliable notification of a closing socket: libcurl may close one without removing it
// from the poll set, and a socket opened later gets the same number.
int HttpDispatcher::on_close_socket(void* self, curl_socket_t fd) noexcept {
    static_cast<HttpDispatcher*>(self)->loop_.remove_fd(fd);
    return ::close(fd);
}

}  // namespace mana_ai::net::detail
