#include "listening_socket.hpp"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstdint>
#include <stdexcept>
#include <system_error>

namespace mana_ai::net::detail {

namespace {

constexpr int kBacklog = 512;

[[noreturn]] void fail(const char* what) {
    throw std::system_error(errno, std::generic_category(), what);
}

struct Address {
    sockaddr_storage storage{};
    socklen_t size = 0;
};

Address parse_address(const std::string& listen) {
    Address address;
    const size_t colon = listen.rfind(':');
    uint16_t port = 0;
    const char* const end = listen.data() + listen.size();
    if (colon == listen.npos || std::from_chars(listen.data() + colon + 1, end, port).ptr != end) {
        throw std::invalid_argument("not an address with a port");
    }
    std::string host = listen.substr(0, colon);
    if (host.size() >= 2 && host.front() == '[' && host.back() == ']') {
        auto* v6 = reinterpret_cast<sockaddr_in6*>(&address.storage);
        v6->sin6_family = AF_INET6;
        v6->sin6_port = htons(port);
        address.size = sizeof(*v6);
        host = host.substr(1, host.size() - 2);
        if (::inet_pton(AF_INET6, host.c_str(), &v6->sin6_addr) == 1) {
            return address;
        }
    } else {
        auto* v4 = reinterpret_cast<sockaddr_in*>(&address.storage);
        v4->sin_family = AF_INET;
        v4->sin_port = htons(port);
        address.size = sizeof(*v4);
        if (::inet_pton(AF_INET, host.c_str(), &v4->sin_addr) == 1) {
            return address;
        }
    }
    throw std::invalid_argument("not an address with a port");
}

}  // namespace

ListeningSocket::ListeningSocket(const std::string& address) {
    try {
        listen(address);
    } catch (...) {
        if (fd_ >= 0) {
            ::close(fd_);
        }
        throw;
    }
}

ListeningSocket::~ListeningSocket() {
    if (fd_ >= 0) {
        ::close(fd_);
    }
}

// A restarted server must get its port again although connections of the previous one linger.
void ListeningSocket::listen(const std::string& text) {
    const Address address = parse_address(text);
    const auto* const name = reinterpret_cast<const sockaddr*>(&address.storage);
    const bool v6 = address.storage.ss_family == AF_INET6;
    const int on = 1;
    fd_ = ::socket(address.storage.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd_ < 0 || ::setsockopt(fd_, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) != 0 ||
        (v6 && ::setsockopt(fd_, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof(on)) != 0)) {
        fail("could not create a socket");
    }
    Address bound;
    bound.size = sizeof(bound.storage);
    if (::bind(fd_, name, address.size) != 0 || ::listen(fd_, kBacklog) != 0 ||
        ::getsockname(fd_, reinterpret_cast<sockaddr*>(&bound.storage), &bound.size) != 0) {
        fail("could not listen");
    }
    port_ = ntohs(v6 ? reinterpret_cast<const sockaddr_in6*>(&bound.storage)->sin6_port
                     : reinterpret_cast<const sockaddr_in*>(&bound.storage)->sin_port);
}

}  // namespace mana_ai::net::detail
