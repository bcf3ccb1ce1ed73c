#include "mana_ai/net/failure_limit.hpp"

#include <algorithm>

namespace mana_ai::net {

bool FailureLimit::may_try(const std::string& client, int64_t now_us) const {
    const auto found = clear_at_us_.find(client);
    return found == clear_at_us_.end() || found->second <= now_us + (kBurst - 1) * kPauseUs;
}

void FailureLimit::failed(const std::string& client, int64_t now_us) {
    std::erase_if(clear_at_us_, [now_us](const auto& of) { return of.second <= now_us; });
    if (clear_at_us_.size() >= kMostClients && !clear_at_us_.contains(client)) {
        clear_at_us_.erase(
            std::ranges::min_element(clear_at_us_, {}, [](const auto& of) { return of.second; }));
    }
    int64_t& clear_at_us = clear_at_us_[client];
    clear_at_us = std::max(clear_at_us, now_us) + kPauseUs;
}

}  // namespace mana_ai::net
