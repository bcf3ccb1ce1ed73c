// A server that does to each connection what a test tells it, byte by byte: one thread accepts, one
// thread per connection runs the script.
#pragma once

#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "fast_server.hpp"

namespace mana_ai::net::test {

// One accepted connection, inside its script.
class Peer {
 public:
    Peer(int fd, int number, std::atomic<bool>& stopping)
        : fd_(fd), number_(number), stopping_(stopping) {}

    int number() const { return number_; }  // of the connection, from 1

    // A whole request (headers and body by Content-Length); empty when the client closed.
    std::string read_request() {
        while (true) {
            const size_t end = input_.find("\r\n\r\n");
            if (end != std::string::npos) {
                size_t length = 0;
                const size_t at = input_.find("Content-Length: ");
                if (at < end) {
                    length = std::strtoul(input_.c_str() + at + 16, nullptr, 10);
                }
                if (input_.size() >= end + 4 + length) {
                    std::string request = input_.substr(0, end + 4 + length);
                    input_.erase(0, request.size());
                    return request;
                }
            }
            char buffer[16384];
            if (!wait_readable()) {
                return {};
            }
            const ssize_t got = ::recv(fd_, buffer, sizeof buffer, 0);
            if (got <= 0) {
                return {};
            }
            input_.append(buffer, static_cast<size_t>(got));
        }
    }

    // False when the client has gone.
    bool send(const std::string& text) {
        size_t sent = 0;
        while (sent < text.size()) {
            const ssize_t count = ::send(fd_, text.data() + sent, text.size() - sent, MSG_NOSIGNAL);
            if (count <= 0) {
                return false;
            }
            sent += static_cast<size_t>(count);
        }
        return true;
    }

    // Until the client closes or the server is stopped.
    void wait_for_close() {
        char buffer[4096];
        while (wait_readable() && ::recv(fd_, buffer, sizeof buffer, 0) > 0) {
        }
    }

    // The connection ends with RST instead of FIN.
    void reset_on_close() {
        const linger now{1, 0};
        ::setsockopt(fd_, SOL_SOCKET, SO_LINGER, &now, sizeof now);
    }

 private:
    bool wait_readable() {
        while (!stopping_) {
            pollfd entry{fd_, POLLIN, 0};
            if (::poll(&entry, 1, 20) > 0) {
                return true;
            }
        }
        return false;
    }

    int fd_;
    int number_;
    std::atomic<bool>& stopping_;
    std::string input_;
};

class RudeServer {
 public:
    using Script = std::function<void(Peer&)>;

    explicit RudeServer(Script script) : script_(std::move(script)) {
        listener_ = listen_on_loopback(1024, port_);
        acceptor_ = std::thread([this] { accept_all(); });
    }
    ~RudeServer() {
        stopping_ = true;
        acceptor_.join();
        for (std::thread& thread : threads_) {
            thread.join();
        }
        ::close(listener_);
    }
    RudeServer(const RudeServer&) = delete;
    RudeServer& operator=(const RudeServer&) = delete;

    std::string url(const std::string& path = "/") const {
        return "http://127.0.0.1:" + std::to_string(port_) + path;
    }
    uint16_t port() const { return port_; }
    int connections() const { return connections_; }

 private:
    void accept_all() {
        while (!stopping_) {
            pollfd entry{listener_, POLLIN, 0};
            if (::poll(&entry, 1, 20) <= 0) {
                continue;
            }
            const int fd = ::accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
            if (fd < 0) {
                continue;
            }
            const int number = ++connections_;
            threads_.emplace_back([this, fd, number] {
                Peer peer(fd, number, stopping_);
                script_(peer);
                ::close(fd);
            });
        }
    }

    Script script_;
    uint16_t port_ = 0;
    int listener_ = -1;
    std::atomic<bool> stopping_{false};
    std::atomic<int> connections_{0};
    std::vector<std::thread> threads_;
    std::thread acceptor_;
};

inline std::string ok_answer(const std::string& body) {
    return "HTTP/1.1 200 OK\r\nContent-Length: " + std::to_string(body.size()) + "\r\n\r\n" + body;
}

}  // namespace mana_ai::net::test
