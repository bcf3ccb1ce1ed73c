// Whose mission comes next, when more are due than there is room for: users take turns.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "mana_ai/core/time/instant.hpp"

namespace mana_ai::core {

struct DueMission {
    std::string user_id;
    std::string mission_id;
    Instant wake_at = 0;  // within a user, the earliest goes first
};

class FairTurns {
 public:
    void started(const std::string& user_id);
    void ended(const std::string& user_id);
    int running(const std::string& user_id) const;

    // At most `limit` of the candidates, in the order in which they are to be claimed. The user
    // with the fewest running missions comes first; among equals, the one whose last turn is
    // longest ago. No user gets more than `most_per_user` running missions (0 = no limit);
    // `held_back` says whether this limit prevented a turn for which there was room.
    std::vector<DueMission> choose(std::vector<DueMission> candidates, std::size_t limit,
                                   int most_per_user, bool& held_back);

    // Candidates of the last choice that were not chosen, to choose from in the next pass: reading
    // the schedule costs more than the rest of a claim. Empty if the schedule must be read again:
    // after a moment, or if too few users are left to decide whose turn it is.
    std::vector<DueMission> take_rest(std::size_t limit, Instant now);
    // Candidates were read from the schedule at this time.
    void looked(Instant now) { looked_at_ = now; }

    // Missions that others have locked must not use up their users' turns: they are left out of the
    // candidates for a moment.
    void avoid(const DueMission& mission, Instant now);
    void leave_out_avoided(std::vector<DueMission>& candidates, Instant now);

    // Nobody is waiting: counting of turns starts again.
    void forget_turns();

    // Forgets a user who has no running mission.
    void forget(const std::string& user_id);

    // Where the walk over all users continues; empty = at the beginning.
    std::string cursor;

 private:
    struct User {
        int running = 0;
        std::uint64_t last_turn = 0;
    };
    static constexpr std::size_t kMaxUsers = 20'000;
    static constexpr std::size_t kMaxAvoided = 10'000;
    static constexpr Instant kAvoidedFor = kMicrosPerSecond;
    static constexpr Instant kRestIsGood = kMicrosPerSecond / 10;

    std::unordered_map<std::string, User> users_;
    std::uint64_t turn_ = 0;
    std::vector<DueMission> rest_;
    Instant looked_at_ = 0;
    std::map<std::pair<std::string, std::string>, Instant> avoided_;  // by user and mission
};

}  // namespace mana_ai::core
