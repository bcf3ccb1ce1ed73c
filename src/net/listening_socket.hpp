// The socket that an HttpServer listens on.
#pragma once

#include <string>
#include <utility>

namespace mana_ai::net::detail {

// Closed at the end unless it was released.
class ListeningSocket {
 public:
    // "127.0.0.1:3067" or "[::1]:3067"; port 0 = any. Throws std::system_error if the address is
    // not available and std::invalid_argument if it is malformed.
    explicit ListeningSocket(const std::string& address);
    ~ListeningSocket();
    ListeningSocket(const ListeningSocket&) = delete;
    ListeningSocket& operator=(const ListeningSocket&) = delete;

    int get() const noexcept { return fd_; }
    int port() const noexcept { return port_; }
    int release() noexcept { return std::exchange(fd_, -1); }

 private:
    void listen(const std::string& address);

    int fd_ = -1;
    int port_ = 0;
};

}  // namespace mana_ai::net::detail
