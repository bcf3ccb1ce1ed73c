// Time limits for code of the table's owner. Triggers, policies and defaults of mana-sync's table
// run on the event loop, and a user's rows can make them slow.
#pragma once

#include <cstdint>
#include <map>
#include <string>

namespace mana_ai {

// A process's record of its users: each may use one second of such code at once and a twentieth of
// the time after that. So a user with slow rows waits, not everybody else. Times are microseconds
// of a monotonic clock.
class TablePatience {
 public:
    static constexpr int64_t kAllowance = 1'000'000;
    static constexpr int64_t kPart = 20;

    void note(const std::string& user_id, int64_t took_us, int64_t now);

    // How long the user has to wait until the next use; 0: not at all.
    int64_t wait_us(const std::string& user_id, int64_t now) const;

    void forget(const std::string& user_id) { uses_.erase(user_id); }

 private:
    struct Use {
        int64_t used = 0;  // as of `at`; decreases with time
        int64_t at = 0;
        int64_t left(int64_t now) const;
    };
    void forget_old(int64_t now);

    std::map<std::string, Use> uses_;
};

}  // namespace mana_ai
