// The HTTP client for calls of services, and those of earlier settings until their calls have
// ended.
//
// Idle connections through another proxy, or trusted by another file, must not be reused.
#pragma once

#include <memory>
#include <vector>

#include "mana_ai/net/event_loop.hpp"
#include "mana_ai/net/http_client.hpp"
#include "mana_ai/pg/settings.hpp"

namespace mana_ai {

class HttpClients {
 public:
    // The loop must outlive it.
    explicit HttpClients(net::EventLoop& loop) : loop_(loop) {}

    // The client for new calls, by the current settings.
    net::HttpClient* renewed();

    // Destroys clients of earlier settings that have no calls left.
    void drop_drained();

    // HttpClient::hold() of all.
    void hold(bool on) noexcept;

 private:
    net::EventLoop& loop_;
    std::unique_ptr<net::HttpClient> current_;
    pg::settings::Transport transport_;  // of current_
    std::vector<std::unique_ptr<net::HttpClient>> draining_;
};

}  // namespace mana_ai
