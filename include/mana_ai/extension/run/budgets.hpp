// Budgets in the database: what a mission's claim checks, and what each model call reserves before
// it is sent (docs/contract/tick.md, Budgets).
//
// A reservation is a number in the run's row: every process sees it, and it ends with the run, also
// after a crash.
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

    // Adds the limits for a call of the user's missions; the user was named to the constructor.
    void add_limits(const std::string& user_id, const core::CallNeed& wanted,
                    std::vector<core::BudgetLimit>& limits) const;

    // The tokens of the last day of an agent or a mission of the user; the other id is empty.
    int64_t used_by(const std::string& user_id, const std::string& agent_id,
                    const std::string& mission_id);

    // A mission of the user is claimed.
    void reserve(const std::string& user_id, int64_t tokens);

    // Whether no other process reserves anything before the transaction's end. If one does, the
    // claim does not wait for it, and the runs check again.
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

// A run's budgets at its last check.
struct RunBudget {
    core::BudgetJudgement judgement;
    int64_t agent_used = 0;  // tokens of the day
};

// The estimate for a run's first call before its prompt is known: the use of the last one in this
// process, and some more. For a mission whose prompt was too long for a budget at its last check,
// that length.
core::CallNeed need_of_first_call(const std::string& user_id, const std::string& mission_id,
                                  int64_t cut_reply_length);
void note_first_call(const ClaimedMission& claimed, const core::CallNeed& need, bool was_too_long);

// A reply that was cut off because of a budget was paid for and gives no plan. Until a run of the
// mission ends without a cut, at most for a day, its calls are only sent if there is room for a
// reply of twice that length, or for the longest allowed one. 0 = none was.
core::CallNeed with_known_length(core::CallNeed need, int64_t cut_reply_length);
// Its prompt was too long as well.
void note_cut_off_reply(const ClaimedMission& claimed, const core::CallNeed& need);
// Writes it to the schedule, in the current transaction; nullopt = none.
void store_cut_off_reply(const ClaimedMission& claimed, std::optional<int64_t> length);

// Lengths of prompts of all missions of a user.
void forget_lengths(std::string_view user_id);

// Whether the run's budgets have room for this call in addition to others' reservations. No other
// process reserves anything before the transaction's end.
RunBudget look_at_budgets(const ClaimedMission& claimed, const core::CallNeed& need);

// The same, and replaces the run's reservation by it; by nothing if there is no room.
RunBudget reserve_tokens(const ClaimedMission& claimed, const core::CallNeed& need);

// What a call that fits reserves: its prompt and its longest reply.
int64_t tokens_to_reserve(const core::CallNeed& need, const core::BudgetJudgement& judgement);

// When a mission that a budget holds back is checked again: soon if it only waits for calls in
// flight.
core::Instant look_at_budget_again(const core::BudgetJudgement& judgement, core::Instant now,
                                   core::Instant otherwise);

}  // namespace mana_ai
