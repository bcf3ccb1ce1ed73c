#include "mana_ai/extension/run/cost_budgets.hpp"

#include <optional>

#include "mana_ai/pg/postgres.hpp"
#include "mana_ai/pg/spi.hpp"

extern "C" {
#include "catalog/pg_type_d.h"
}

namespace mana_ai {

namespace {

// Most servers have none, and few have any for missions.
struct Found {
    bool any = false;
    bool of_missions = false;
};

Found find_budgets() {
    static pg::Statement select_any("SELECT bool_or(mission_id <> '') FROM mana_ai.cost_budgets");
    const auto rows = select_any.execute({}).rows;
    if (rows.front().is_null(0))
        return {};
    return {true, rows.front().number(0) != 0};
}

bool has_own_budget(const std::string& user_id, const std::string& mission_id) {
    static pg::Statement select_own(R"sql(
SELECT 1 FROM mana_ai.cost_budgets WHERE user_id = $1 AND agent_id = '' AND mission_id = $2)sql");
    return !select_own.execute({std::string_view(user_id), std::string_view(mission_id)})
                .rows.empty();
}

std::vector<CostLimit> cost_limits(const std::string& user_id, const std::string& agent_id,
                                   const std::string& mission_id,
                                   const std::optional<std::string>& run_id,
                                   const core::CallNeed& wanted) {
    static pg::Statement select_limits(R"sql(
SELECT b.scope, b.tokens_left, b.reserved_tokens, b.call_tokens
  FROM mana_ai.cost_budgets_of($1, $2, $3::uuid, $4) b
 WHERE b.tokens_left IS NOT NULL)sql");
    std::vector<CostLimit> limits;
    for (const pg::Row& row : select_limits
                                  .execute({std::string_view(user_id), std::string_view(agent_id),
                                            pg::text_or_null(run_id), std::string_view(mission_id)})
                                  .rows) {
        core::BudgetLimit limit;
        limit.scope = row.text(0) == "agent"     ? core::BudgetScope::Agent
                      : row.text(0) == "mission" ? core::BudgetScope::Mission
                      : row.text(0) == "user"    ? core::BudgetScope::User
                                                 : core::BudgetScope::Total;
        limit.cap = row.number(1);
        limit.reserved = row.number(2);
        limit.wanted = wanted;
        limits.push_back({limit, row.number(3)});
    }
    return limits;
}

}  // namespace

void add_cost_limits(const std::string& user_id, const std::string& agent_id,
                     const std::string& mission_id, const std::string& run_id,
                     const core::CallNeed& wanted, std::vector<core::BudgetLimit>& limits) {
    if (!find_budgets().any)
        return;
    for (const CostLimit& found : cost_limits(user_id, agent_id, mission_id, run_id, wanted))
        limits.push_back(found.limit);
}

void add_total_cost_limit(const std::string& what_if_id, const core::CallNeed& wanted,
                          std::vector<core::BudgetLimit>& limits) {
    if (!find_budgets().any)
        return;
    for (const CostLimit& found : cost_limits({}, {}, {}, what_if_id, wanted))
        if (found.limit.scope == core::BudgetScope::Total)
            limits.push_back(found.limit);
}

void ClaimCostBudgets::add_limits(const std::string& user_id, const std::string& agent_id,
                                  const std::string& mission_id, const core::CallNeed& wanted,
                                  std::vector<core::BudgetLimit>& limits) {
    if (!are_known_) {
        const Found found = find_budgets();
        are_known_ = true;
        are_any_ = found.any;
        are_any_of_missions_ = found.of_missions;
    }
    if (!are_any_)
        return;
    // The budgets that missions without their own share are looked up once.
    const std::string own =
        are_any_of_missions_ && has_own_budget(user_id, mission_id) ? mission_id : std::string();
    const auto [known, is_new] = found_.try_emplace({user_id, agent_id, own});
    if (is_new)
        known->second = cost_limits(user_id, agent_id, own, std::nullopt, wanted);
    for (const CostLimit& found : known->second) {
        core::BudgetLimit limit = found.limit;
        limit.wanted = wanted;
        const auto add = [&](const Claimed& claimed) {
            limit.reserved += claimed.tokens + claimed.calls * found.call_tokens;
        };
        if (limit.scope == core::BudgetScope::Agent)
            add(of_agents_[{user_id, agent_id}]);
        else if (limit.scope == core::BudgetScope::User)
            add(of_users_[user_id]);
        else if (limit.scope == core::BudgetScope::Total)
            add(total_);
        limits.push_back(limit);
    }
}

void ClaimCostBudgets::reserve(const std::string& user_id, const std::string& agent_id,
                               int64_t tokens) {
    of_agents_[{user_id, agent_id}].add(tokens);
    of_users_[user_id].add(tokens);
    total_.add(tokens);
}

void ClaimCostBudgets::Claimed::add(int64_t reserved) {
    tokens += reserved;
    calls++;
}

}  // namespace mana_ai
