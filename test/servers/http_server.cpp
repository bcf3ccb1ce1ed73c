#include "http_server.hpp"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <string_view>
#include <system_error>
#include <utility>

namespace mana_ai::test {

namespace {

constexpr std::size_t kReadSize = 64 * 1024;
constexpr std::size_t kLargestBody = 64 * 1024 * 1024;
constexpr std::int64_t kSliceUs = 20'000;  // how often a throttled answer sends its next bytes

void check(int result, const char* what) {
    if (result < 0) {
        throw std::system_error(errno, std::generic_category(), what);
    }
}

bool matches(std::string_view route, std::string_view path) {
    if (route.ends_with('*')) {
        route.remove_suffix(1);
        return path.starts_with(route);
    }
    return path == route;
}

/// Tests open thousands of connections; the usual soft limit is 1024.
void raise_descriptor_limit() {
    rlimit limit{};
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
}

}  // namespace

struct HttpServer::Connection {
    explicit Connection(int fd, std::uint64_t number) : descriptor(fd), generation(number) {}

    int descriptor;
    std::uint64_t generation;
    std::string input;
    std::size_t head_end = 0;  // 0 = the head of the next request is not complete
    std::size_t body_length = 0;
    Request request;
    bool answering = false;  // a request was read and its answer is not sent
    bool counted = false;
    Response pending;  // waits for its delay
    std::string output;
    std::size_t sent = 0;
    std::int64_t bytes_per_second = 0;
    bool close_when_sent = false;
    bool watching_writable = false;
    bool waiting = false;  // for a timer
    bool delayed = false;  // that timer is the answer's delay, not the next slice of its bytes
};

HttpServer::HttpServer(std::uint16_t port) {
    raise_descriptor_limit();
    listener_ = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    check(listener_, "socket");
    const int on = 1;
    setsockopt(listener_, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    check(bind(listener_, reinterpret_cast<sockaddr*>(&address), sizeof address), "bind");
    check(listen(listener_, 4096), "listen");
    socklen_t size = sizeof address;
    check(getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &size), "getsockname");
    port_ = ntohs(address.sin_port);

    epoll_ = epoll_create1(EPOLL_CLOEXEC);
    check(epoll_, "epoll_create1");
    stopper_ = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    check(stopper_, "eventfd");
    for (const int descriptor : {listener_, stopper_}) {
        epoll_event event{};
        event.events = EPOLLIN;
        event.data.fd = descriptor;
        check(epoll_ctl(epoll_, EPOLL_CTL_ADD, descriptor, &event), "epoll_ctl");
    }
}

HttpServer::~HttpServer() {
    for (auto& connection : connections_) {
        if (connection) {
            close(connection->descriptor);
        }
    }
    close(stopper_);
    close(epoll_);
    close(listener_);
}

void HttpServer::route(std::string method, std::string path, Handler handler, bool counted) {
    routes_.push_back({std::move(method), std::move(path), std::move(handler), counted});
}

void HttpServer::reset_statistics() {
    statistics_.requests = 0;
    statistics_.max_in_flight = statistics_.in_flight;
    statistics_.max_connections = statistics_.connections;
    statistics_.accepted = 0;
}

void HttpServer::stop() {
    const std::uint64_t one = 1;
    [[maybe_unused]] const auto written = write(stopper_, &one, sizeof one);
}

void HttpServer::run() {
    std::array<epoll_event, 512> events{};
    for (;;) {
        int timeout_ms = -1;
        if (!timers_.empty()) {
            const auto wait_us = std::max<std::int64_t>(0, timers_.top().due_us - now_us());
            timeout_ms = static_cast<int>(std::min<std::int64_t>((wait_us + 999) / 1000, 60'000));
        }
        const int count = epoll_wait(epoll_, events.data(), events.size(), timeout_ms);
        if (count < 0 && errno != EINTR) {
            check(count, "epoll_wait");
        }
        for (int i = 0; i < count; ++i) {
            const int descriptor = events[i].data.fd;
            if (descriptor == stopper_) {
                return;
            }
            if (descriptor == listener_) {
                accept_all();
                continue;
            }
            // An earlier event of this round may have closed it; a new one of that number is only
            // accepted in this round, and reading from it early does no harm.
            Connection* connection = connections_[descriptor].get();
            if (connection != nullptr && (events[i].events & EPOLLOUT) != 0) {
                flush(*connection);
                connection = connections_[descriptor].get();
            }
            if (connection != nullptr &&
                (events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) != 0) {
                readable(*connection);
            }
        }
        fire_timers();
    }
}

void HttpServer::accept_all() {
    for (;;) {
        const int descriptor = accept4(listener_, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (descriptor < 0) {
            return;
        }
        const int on = 1;
        setsockopt(descriptor, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        if (connections_.size() <= static_cast<std::size_t>(descriptor)) {
            connections_.resize(descriptor + 1);
        }
        connections_[descriptor] = std::make_unique<Connection>(descriptor, next_generation_++);
        epoll_event event{};
        event.events = EPOLLIN;
        event.data.fd = descriptor;
        check(epoll_ctl(epoll_, EPOLL_CTL_ADD, descriptor, &event), "epoll_ctl");
        ++statistics_.accepted;
        ++statistics_.connections;
        statistics_.max_connections =
            std::max(statistics_.max_connections, statistics_.connections);
    }
}

void HttpServer::readable(Connection& connection) {
    static std::array<char, kReadSize> buffer;
    const auto got = recv(connection.descriptor, buffer.data(), buffer.size(), 0);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) {
        return;
    }
    if (got <= 0) {
        drop(connection, false);
        return;
    }
    connection.input.append(buffer.data(), got);
    if (!connection.answering) {
        parse(connection);
    }
}

void HttpServer::parse(Connection& connection) {
    std::string& input = connection.input;
    if (connection.head_end == 0) {
        const auto end = input.find("\r\n\r\n");
        if (end == std::string::npos) {
            return;
        }
        connection.head_end = end + 4;
        connection.body_length = 0;
        auto head = parse_head(std::string_view(input).substr(0, connection.head_end));
        if (!head) {
            drop(connection, false);
            return;
        }
        connection.request = std::move(*head);
        const Request& request = connection.request;
        const auto length = request.header("Content-Length");
        std::from_chars(length.data(), length.data() + length.size(), connection.body_length);
        if (connection.body_length > kLargestBody) {
            drop(connection, false);
            return;
        }
        if (same_text(request.header("Expect"), "100-continue")) {
            constexpr std::string_view kContinue = "HTTP/1.1 100 Continue\r\n\r\n";
            send(connection.descriptor, kContinue.data(), kContinue.size(), MSG_NOSIGNAL);
        }
        input.reserve(connection.head_end + connection.body_length);
    }
    if (input.size() < connection.head_end + connection.body_length) {
        return;
    }
    connection.request.body.assign(input, connection.head_end, connection.body_length);
    input.erase(0, connection.head_end + connection.body_length);
    connection.head_end = 0;
    dispatch(connection);
}

void HttpServer::dispatch(Connection& connection) {
    Request& request = connection.request;
    request.arrived_us = now_us();
    connection.answering = true;
    connection.counted = false;
    connection.close_when_sent = same_text(request.header("Connection"), "close");
    const auto found = std::find_if(routes_.begin(), routes_.end(), [&](const Route& route) {
        return route.method == request.method && matches(route.path, request.path);
    });
    if (found == routes_.end()) {
        Response missing;
        missing.status = 404;
        missing.body = R"({"detail":"not found"})";
        respond(connection, std::move(missing));
        return;
    }
    if (found->counted) {
        connection.counted = true;
        ++statistics_.requests;
        ++statistics_.in_flight;
        statistics_.max_in_flight = std::max(statistics_.max_in_flight, statistics_.in_flight);
    }
    Response response = found->handler(request);
    if (response.hang) {
        return;
    }
    if (response.delay_ms > 0) {
        const auto due_us = request.arrived_us + response.delay_ms * 1000;
        connection.pending = std::move(response);
        connection.waiting = connection.delayed = true;
        schedule(connection, due_us);
        return;
    }
    respond(connection, std::move(response));
}

void HttpServer::respond(Connection& connection, Response response) {
    if (response.reset || response.close) {
        drop(connection, response.reset);
        return;
    }
    std::string& output = connection.output;
    output.clear();
    connection.sent = 0;
    connection.bytes_per_second = response.bytes_per_second;
    connection.close_when_sent |= response.close_after || response.truncate;
    if (!response.raw.empty()) {
        output = std::move(response.raw);
        connection.close_when_sent = true;
        flush(connection);
        return;
    }
    output = serialize(response, connection.close_when_sent);
    flush(connection);
}

void HttpServer::flush(Connection& connection) {
    if (connection.waiting || connection.output.empty()) {
        return;
    }
    while (connection.sent < connection.output.size()) {
        auto size = connection.output.size() - connection.sent;
        if (connection.bytes_per_second > 0) {
            const auto slice =
                std::max<std::int64_t>(1, connection.bytes_per_second * kSliceUs / 1'000'000);
            size = std::min(size, static_cast<std::size_t>(slice));
        }
        const auto written = send(connection.descriptor, connection.output.data() + connection.sent,
                                  size, MSG_NOSIGNAL);
        if (written < 0 && errno == EINTR) {
            continue;
        }
        if (written < 0 && errno == EAGAIN) {
            watch(connection, true);
            return;
        }
        if (written < 0) {
            drop(connection, false);
            return;
        }
        connection.sent += written;
        if (connection.bytes_per_second > 0 && connection.sent < connection.output.size()) {
            const auto pause_us =
                static_cast<std::int64_t>(written) * 1'000'000 / connection.bytes_per_second;
            connection.waiting = true;
            watch(connection, false);
            schedule(connection, now_us() + pause_us);
            return;
        }
    }
    watch(connection, false);
    finish(connection);
}

void HttpServer::finish(Connection& connection) {
    if (connection.counted) {
        --statistics_.in_flight;
        connection.counted = false;
    }
    connection.answering = false;
    connection.output.clear();
    connection.sent = 0;
    if (connection.close_when_sent) {
        drop(connection, false);
        return;
    }
    if (!connection.input.empty()) {
        parse(connection);
    }
}

void HttpServer::drop(Connection& connection, bool reset) {
    if (connection.counted) {
        --statistics_.in_flight;
    }
    if (reset) {
        const linger at_once{1, 0};
        setsockopt(connection.descriptor, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
    }
    --statistics_.connections;
    close(connection.descriptor);
    connections_[connection.descriptor].reset();
}

void HttpServer::schedule(const Connection& connection, std::int64_t due_us) {
    timers_.push({due_us, connection.descriptor, connection.generation});
}

void HttpServer::fire_timers() {
    const auto now = now_us();
    while (!timers_.empty() && timers_.top().due_us <= now) {
        const Timer timer = timers_.top();
        timers_.pop();
        Connection* connection = connections_[timer.descriptor].get();
        if (connection == nullptr || connection->generation != timer.generation) {
            continue;
        }
        connection->waiting = false;
        if (connection->delayed) {
            connection->delayed = false;
            respond(*connection, std::move(connection->pending));
        } else {
            flush(*connection);
        }
    }
}

void HttpServer::watch(Connection& connection, bool writable) {
    if (connection.watching_writable == writable) {
        return;
    }
    connection.watching_writable = writable;
    epoll_event event{};
    event.events = EPOLLIN | (writable ? EPOLLOUT : 0U);
    event.data.fd = connection.descriptor;
    check(epoll_ctl(epoll_, EPOLL_CTL_MOD, connection.descriptor, &event), "epoll_ctl");
}

}  // namespace mana_ai::test
