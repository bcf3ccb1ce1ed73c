// Slows down clients that guess.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>

namespace mana_ai::net {

// A client may fail kBurst times, and once more for each kPause that has passed since. Clients do
// not use up each other's tries.
class FailureLimit {
 public:
    static constexpr int64_t kBurst = 20;
    static constexpr int64_t kPauseUs = 1'000'000;
    // Beyond this many clients, the one that has failed least lately is forgotten.
    static constexpr std::size_t kMostClients = 1000;

    // `client`: what tells clients apart. Times are those of a clock that does not jump.
    bool may_try(const std::string& client, int64_t now_us) const;
    void failed(const std::string& client, int64_t now_us);

    std::size_t clients() const noexcept { return clear_at_us_.size(); }

 private:
    // When all of a client's failures will have been forgotten.
    std::map<std::string, int64_t> clear_at_us_;
};

}  // namespace mana_ai::net
