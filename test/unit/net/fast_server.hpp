// A small, fast HTTP/1.1 server in one thread (epoll, keep-alive) for tests and measurements.
// Answers every request with the same body; can hold answers back until so many requests wait.
#pragma once

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>
#include <thread>
#include <unordered_map>
#include <utility>
#include <vector>

namespace mana_ai::net::test {

inline int listen_on_loopback(int backlog, uint16_t& port) {
    const int fd = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const int one = 1;
    ::setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t length = sizeof address;
    if (fd < 0 || ::bind(fd, reinterpret_cast<sockaddr*>(&address), length) != 0 ||
        ::listen(fd, backlog) != 0 ||
        ::getsockname(fd, reinterpret_cast<sockaddr*>(&address), &length) != 0) {
        throw std::runtime_error("could not listen");
    }
    port = ntohs(address.sin_port);
    return fd;
}

class FastServer {
 public:
    explicit FastServer(std::string body = "{\"ok\":true}", size_t hold_until = 0)
        : hold_until_(hold_until) {
        answer_ = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: " +
                  std::to_string(body.size()) + "\r\n\r\n" + body;
        listener_ = listen_on_loopback(4096, port_);
        epoll_ = ::epoll_create1(EPOLL_CLOEXEC);
        stop_ = ::eventfd(0, EFD_CLOEXEC);
        watch(listener_);
        watch(stop_);
        thread_ = std::thread([this] { serve(); });
    }
    ~FastServer() {
        const uint64_t one = 1;
        if (::write(stop_, &one, sizeof one) != sizeof one) {
            std::abort();
        }
        thread_.join();
        ::close(listener_);
        ::close(stop_);
        ::close(epoll_);
    }
    FastServer(const FastServer&) = delete;
    FastServer& operator=(const FastServer&) = delete;

    std::string url(const std::string& path = "/") const {
        return "http://127.0.0.1:" + std::to_string(port_) + path;
    }
    size_t requests() const { return requests_; }
    size_t connections() const { return connections_; }
    size_t open_connections() const { return open_; }

 private:
    void watch(int fd) {
        epoll_event event{};
        event.events = EPOLLIN;
        event.data.fd = fd;
        ::epoll_ctl(epoll_, EPOLL_CTL_ADD, fd, &event);
    }

    void serve() {
        std::vector<epoll_event> events(1024);
        while (true) {
            const int count = ::epoll_wait(epoll_, events.data(), 1024, -1);
            for (int i = 0; i < count; ++i) {
                const int fd = events[static_cast<size_t>(i)].data.fd;
                if (fd == stop_) {
                    for (auto& entry : input_) {
                        ::close(entry.first);
                    }
                    return;
                }
                if (fd == listener_) {
                    accept_one();
                } else {
                    read_from(fd);
                }
            }
        }
    }

    void accept_one() {
        const int fd = ::accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
        if (fd < 0) {
            return;
        }
        const int one = 1;
        ::setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        input_[fd];
        watch(fd);
        ++connections_;
        ++open_;
    }

    void read_from(int fd) {
        char buffer[65536];
        const ssize_t got = ::recv(fd, buffer, sizeof buffer, MSG_DONTWAIT);
        if (got <= 0) {
            if (got == 0 || errno != EAGAIN) {
                ::close(fd);
                input_.erase(fd);
                --open_;
            }
            return;
        }
        std::string& input = input_[fd];
        input.append(buffer, static_cast<size_t>(got));
        while (true) {
            const size_t end = input.find("\r\n\r\n");
            if (end == std::string::npos) {
                return;
            }
            size_t length = 0;
            const size_t at = input.find("Content-Length: ");
            if (at < end) {
                length = std::strtoul(input.c_str() + at + 16, nullptr, 10);
            }
            if (input.size() < end + 4 + length) {
                return;
            }
            input.erase(0, end + 4 + length);
            ++requests_;
            if (requests_ < hold_until_) {
                held_.push_back(fd);
                continue;
            }
            for (const int held : std::exchange(held_, {})) {
                answer(held);
            }
            answer(fd);
        }
    }

    void answer(int fd) {
        if (::send(fd, answer_.data(), answer_.size(), MSG_NOSIGNAL) < 0) {
            ::shutdown(fd, SHUT_RDWR);
        }
    }

    size_t hold_until_;
    std::string answer_;
    uint16_t port_ = 0;
    int listener_ = -1;
    int epoll_ = -1;
    int stop_ = -1;
    std::unordered_map<int, std::string> input_;
    std::vector<int> held_;
    std::atomic<size_t> requests_{0};
    std::atomic<size_t> connections_{0};
    std::atomic<size_t> open_{0};
    std::thread thread_;
};

}  // namespace mana_ai::net::test
