// How long code of the table's owner may hold up everything else. Triggers, policies and defaults
// of mana-sync's table run on the event loop, and what a user has written can make them slow.
#pragma once

#include <cstdint>
#include <map>
#include <string>

namespace mana_ai {

// What a process knows of its users: each may use one second of such code at once and a twentieth
// of the time after that. So a user whose rows are slow waits, and not everybody else behind them.
// Times are microseconds of a clock that only goes forward.
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
        int64_t used = 0;  // as of `at`; what time passes takes off
        int64_t at = 0;
        int64_t left(int64_t now) const;
    };
    void forget_old(int64_t now);

    std::map<std::string, Use> uses_;
};

}  // namespace mana_ai
