// What operators have stopped (docs/operations.md, "The brake").
#pragma once

#include <set>
#include <string>

namespace mana_ai {

struct Stops {
    bool all = false;
    std::set<std::string, std::less<>> users;
    std::set<std::string, std::less<>> agents;
    std::set<std::string, std::less<>> models;
    std::set<std::string, std::less<>> tools;

    bool operator==(const Stops&) const = default;

    // Whether `others` has nothing that is not in here.
    bool hold_all_of(const Stops& others) const;
    // No mission can be planned at all.
    bool is_total() const;
    // An empty agent_id is none.
    bool concern(const std::string& user_id, const std::string& agent_id) const {
        return is_total() || users.contains(user_id) ||
               (!agent_id.empty() && agents.contains(agent_id));
    }
};

// What is in force, in the current transaction.
Stops read_stops();

// Makes missions due again that were held back because of a stop; those that another one concerns
// are held back anew when they are looked at.
void free_stopped_missions();

}  // namespace mana_ai
