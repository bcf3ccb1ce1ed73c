#include "mana_ai/extension/process/http_clients.hpp"

#include <utility>

#include "mana_ai/extension/lease/research_jobs.hpp"

namespace mana_ai {

net::HttpClient* HttpClients::renewed() {
    pg::settings::Transport transport = pg::settings::transport();
    if (current_ != nullptr && transport == transport_)
        return current_.get();
    net::HttpClientOptions options;
    options.max_connections_total = pg::settings::kMaxConcurrency + kMaxResearchPolls;
    options.max_connections_per_host = pg::settings::kMaxConcurrency;
    options.user_agent = std::string("mana_ai/") + MANA_AI_VERSION;
    options.proxy = transport.proxy;
    options.ca_file = transport.ca_file;
    auto client = std::make_unique<net::HttpClient>(loop_, options);
    if (current_ != nullptr)
        draining_.push_back(std::move(current_));
    current_ = std::move(client);
    transport_ = std::move(transport);
    drop_drained();
    return current_.get();
}

void HttpClients::drop_drained() {
    std::erase_if(draining_, [](const std::unique_ptr<net::HttpClient>& client) {
        return client->in_flight() == 0 && client->waiting() == 0;
    });
}

void HttpClients::hold(bool on) noexcept {
    if (current_ != nullptr)
        current_->hold(on);
    for (const auto& client : draining_)
        client->hold(on);
}

}  // namespace mana_ai
