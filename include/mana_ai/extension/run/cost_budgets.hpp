// Budgets in money (docs/contract/tick.md, Budgets), converted into limits of tokens at the highest
// possible price of the next call.
#pragma once

#include <map>
#include <string>
#include <tuple>
#include <vector>

#include "mana_ai/core/planner/budget.hpp"

namespace mana_ai {

struct CostLimit {
    core::BudgetLimit limit;
    int64_t call_tokens = 0;  // what a call costs in addition to its tokens, as tokens
};

// The limits for a call of the run, in the current transaction.
void add_cost_limits(const std::string& user_id, const std::string& agent_id,
                     const std::string& mission_id, const std::string& run_id,
                     const core::CallNeed& wanted, std::vector<core::BudgetLimit>& limits);

// Only that of all users together, for what an operator asks of a past run: the row in
// mana_ai.what_if_running.
void add_total_cost_limit(const std::string& what_if_id, const core::CallNeed& wanted,
                          std::vector<core::BudgetLimit>& limits);

// As add_cost_limits() for the missions of one claim, whose reservations are not yet in any row. A
// mission is claimed once.
class ClaimCostBudgets {
 public:
    void add_limits(const std::string& user_id, const std::string& agent_id,
                    const std::string& mission_id, const core::CallNeed& wanted,
                    std::vector<core::BudgetLimit>& limits);
    void reserve(const std::string& user_id, const std::string& agent_id, int64_t tokens);

 private:
    struct Claimed {
        int64_t tokens = 0;
        int64_t calls = 0;

        void add(int64_t reserved);
    };
    bool are_known_ = false;
    bool are_any_ = false;
    bool are_any_of_missions_ = false;
    std::map<std::tuple<std::string, std::string, std::string>, std::vector<CostLimit>> found_;
    std::map<std::pair<std::string, std::string>, Claimed> of_agents_;
    std::map<std::string, Claimed> of_users_;
    Claimed total_;
};

}  // namespace mana_ai
