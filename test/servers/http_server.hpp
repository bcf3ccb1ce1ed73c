#pragma once

// A small HTTP/1.1 server for tests: one thread, epoll, 127.0.0.1 only, able to misbehave on
// purpose. Thousands of connections; a handler answers at once and may ask for its answer to be
// delayed.

#include <cstdint>
#include <functional>
#include <memory>
#include <queue>
#include <string>
#include <vector>

#include "http_message.hpp"

namespace mana_ai::test {

struct ServerStatistics {
    std::uint64_t requests = 0;
    std::uint64_t in_flight = 0;  ///< requests read but not yet answered
    std::uint64_t max_in_flight = 0;
    std::uint64_t connections = 0;
    std::uint64_t max_connections = 0;
    std::uint64_t accepted = 0;
};

class HttpServer {
 public:
    using Handler = std::function<Response(Request&)>;

    /// Listens on 127.0.0.1:port, 0 = any free port. Throws std::system_error.
    explicit HttpServer(std::uint16_t port);
    ~HttpServer();
    HttpServer(const HttpServer&) = delete;
    HttpServer& operator=(const HttpServer&) = delete;

    std::uint16_t port() const { return port_; }

    /// Requests with this method and path go to the handler; a path that ends in `*` stands for all
    /// that begin with what is before it. `counted` requests appear in the statistics.
    void route(std::string method, std::string path, Handler handler, bool counted = true);

    /// Serves until stop() is called, also from a signal handler.
    void run();
    void stop();

    const ServerStatistics& statistics() const { return statistics_; }
    void reset_statistics();

 private:
    struct Connection;
    struct Route {
        std::string method;
        std::string path;
        Handler handler;
        bool counted;
    };
    struct Timer {
        std::int64_t due_us;
        int descriptor;
        std::uint64_t generation;
        bool operator>(const Timer& other) const { return due_us > other.due_us; }
    };

    void accept_all();
    void readable(Connection& connection);
    void parse(Connection& connection);
    void dispatch(Connection& connection);
    void respond(Connection& connection, Response response);
    void flush(Connection& connection);
    void finish(Connection& connection);
    void drop(Connection& connection, bool reset);
    void schedule(const Connection& connection, std::int64_t due_us);
    void fire_timers();
    void watch(Connection& connection, bool writable);

    int listener_ = -1;
    int epoll_ = -1;
    int stopper_ = -1;
    std::uint16_t port_ = 0;
    std::vector<Route> routes_;
    std::vector<std::unique_ptr<Connection>> connections_;  // by descriptor
    std::priority_queue<Timer, std::vector<Timer>, std::greater<>> timers_;
    std::uint64_t next_generation_ = 1;
    ServerStatistics statistics_;
};

}  // namespace mana_ai::test
