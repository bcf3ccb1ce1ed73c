// What operators have stopped (docs/operations.md, "The brake").
#pragma once

#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include "mana_ai/core/time/instant.hpp"

namespace mana_ai {

struct Stops {
    bool all = false;
    std::set<std::string, std::less<>> users;
    std::set<std::string, std::less<>> agents;
    std::set<std::string, std::less<>> models;
    std::set<std::string, std::less<>> tools;
    // Users who are being erased. Not a stop, but their runs end as well.
    std::set<std::string, std::less<>> erased;

    bool operator==(const Stops&) const = default;

    // Whether this includes everything that `others` stops.
    bool hold_all_of(const Stops& others) const;
    // No mission can be planned at all.
    bool is_total() const;
    bool concern_user(const std::string& user_id) const {
        return users.contains(user_id) || erased.contains(user_id);
    }
    // An empty agent_id is none.
    bool concern(const std::string& user_id, const std::string& agent_id) const {
        return is_total() || concern_user(user_id) ||
               (!agent_id.empty() && agents.contains(agent_id));
    }
};

// What is in force, in the current transaction.
Stops read_stops();

// Completes what it can of the erasures of these users, for whom the engine has no runs any more.
// In the current transaction, which has written nothing yet.
void settle_erasures(const std::vector<std::string>& users, uint32_t engine);

// Makes missions due again that were held back because of a stop, until this time; those that
// another stop concerns are held back again at their next check. False: somebody has locked some.
bool free_stopped_missions(core::Instant held_until);

}  // namespace mana_ai
