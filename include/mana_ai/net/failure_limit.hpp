// Slows down clients that guess keys.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>

namespace mana_ai::net {

// A client may fail kBurst times, and once more for each kPause that has passed since. Clients do
// not use up each other's attempts.
class FailureLimit {
 public:
    static constexpr int64_t kBurst = 20;
    static constexpr int64_t kPauseUs = 1'000'000;
    // Above this number of clients, the one whose last failure is oldest is forgotten.
    static constexpr std::size_t kMostClients = 1000;

    // `client` identifies the client. Times are those of a monotonic clock.
    bool may_try(const std::string& client, int64_t now_us) const;
    void failed(const std::string& client, int64_t now_us);

    std::size_t clients() const noexcept { return clear_at_us_.size(); }

 private:
    // When all of a client's failures will have been forgotten.
    std::map<std::string, int64_t> clear_at_us_;
};

}  // namespace mana_ai::net
