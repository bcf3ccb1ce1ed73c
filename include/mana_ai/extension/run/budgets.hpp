// Budgets as they stand in the database: what a mission's claim looks at, and what each call of the
// model reserves before it goes out (docs/contract/tick.md, Budgets).
//
// A reservation is a number in the run's row: it holds for every process, and is nothing any more
// when the run has ended, however that was.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <tuple>
#include <vector>

#include "mana_ai/core/planner/budget.hpp"
#include "mana_ai/extension/lease/claimed_mission.hpp"

namespace mana_ai {

// Budgets of users and of all together, for the missions of one claim.
class ClaimBudgets {
 public:
    // Reads them, in the current transaction.
    explicit ClaimBudgets(std::vector<std::string> users);

    // Adds the limits that hold for a call of the user's missions; of a user that was read.
    void add_limits(const std::string& user_id, const core::CallNeed& wanted,
                    std::vector<core::BudgetLimit>& limits) const;

    // The tokens of the last day of an agent or a mission of the user's; the other id is empty.
    int64_t used_by(const std::string& user_id, const std::string& agent_id,
                    const std::string& mission_id);

    // A mission of the user's is claimed.
    void reserve(const std::string& user_id, int64_t tokens);

    // Whether no other process reserves anything before the transaction's end. If one does, a
    // claim does not wait for it, and the runs look again.
    bool is_alone() const { return is_alone_; }

 private:
    struct Standing {
        std::optional<int64_t> cap;
        int64_t used = 0;
        int64_t reserved = 0;
    };
    bool is_alone_ = false;
    std::map<std::string, Standing> users_;
    std::map<std::tuple<std::string, std::string, std::string>, int64_t> used_;
    Standing total_;
};

// A run's budgets at its newest look at them.
struct RunBudget {
    core::BudgetJudgement judgement;
    int64_t agent_used = 0;  // tokens of the day
};

// What a run's first call is held to use before its prompt is there: what the last one in this
// process did, and some more. Of a mission whose prompt was too long for a budget at its last look,
// that is known.
core::CallNeed need_of_first_call(const std::string& user_id, const std::string& mission_id);
void note_first_call(const ClaimedMission& claimed, const core::CallNeed& need, bool was_too_long);

// A reply that was cut off because a budget had no room for more is paid for and is no plan. Until
// a run of the mission in this process ends whole, at most for a day, its calls only go out where
// there is room for a reply of twice that length, or for the longest there may be.
core::CallNeed with_known_length(core::CallNeed need, const std::string& user_id,
                                 const std::string& mission_id);
void note_cut_off_reply(const ClaimedMission& claimed, const core::CallNeed& need, int64_t length);
void forget_cut_off_reply(const ClaimedMission& claimed);

// Lengths of prompts and replies of all missions of a user.
void forget_lengths(std::string_view user_id);

// Whether the run's budgets have room for this call, beside what others have reserved. No other
// process reserves anything before the transaction's end.
RunBudget look_at_budgets(const ClaimedMission& claimed, const core::CallNeed& need);

// The same, and reserves it in place of what the run had reserved; nothing if there is no room.
RunBudget reserve_tokens(const ClaimedMission& claimed, const core::CallNeed& need);

// What a call that fits reserves: its prompt and the longest reply that it gets.
int64_t tokens_to_reserve(const core::CallNeed& need, const core::BudgetJudgement& judgement);

// When a mission is looked at again that a budget holds back: soon if it only waits for calls that
// are under way.
core::Instant look_at_budget_again(const core::BudgetJudgement& judgement, core::Instant now,
                                   core::Instant otherwise);

}  // namespace mana_ai
