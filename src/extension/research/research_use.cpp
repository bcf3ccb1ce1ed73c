#include "mana_ai/extension/research/research_use.hpp"

#include "mana_ai/extension/lease/ledger.hpp"
#include "mana_ai/extension/lease/run_metrics.hpp"
#include "mana_ai/pg/settings.hpp"
#include "mana_ai/pg/spi.hpp"

extern "C" {
#include "catalog/pg_type_d.h"
}

namespace mana_ai {

namespace {

// The statements name the kind in their text, so that the index on these rows can be used.
struct Statements {
    // Reads at most as many rows as the limit allows.
    pg::Statement is_allowed;
    // Budgets of which less is left than it costs.
    pg::Statement find_short_budget;
    pg::Statement charge;

    Statements(const std::string& name, const std::string& limit)
        : is_allowed(
              "SELECT l.most IS NULL OR l.most > (SELECT count(*) FROM ("
              "SELECT FROM mana_ai.token_usage u WHERE u.user_id = $1 AND u.model = '" +
              name +
              "' AND u.ts > now() - interval '24 hours' LIMIT l.most) had) "
              "FROM (SELECT coalesce((SELECT b." +
              limit + " FROM mana_ai.user_budgets b WHERE b.user_id = $1), $2) AS most) l"),
          find_short_budget(
              "SELECT 1 FROM (SELECT WHERE EXISTS (SELECT FROM mana_ai.model_prices) "
              "AND EXISTS (SELECT FROM mana_ai.cost_budgets) OFFSET 0) any_budget "
              "CROSS JOIN LATERAL mana_ai.cost_of('" +
              name +
              "', '', clock_timestamp(), 0, 0, 0) c "
              "CROSS JOIN LATERAL mana_ai.cost_budgets_of($1, $2, NULL, $3) b "
              "WHERE b.currency = c.currency AND b.cost_left < c.cost LIMIT 1"),
          charge(
              "INSERT INTO mana_ai.token_usage (user_id, agent_id, mission_id, tokens_used, "
              "run_id, model, prompt_tokens, cached_tokens, completion_tokens, "
              "reasoning_tokens, cost, currency) "
              "SELECT $1, nullif($2, ''), $3, 0, $4::uuid, '" +
              name +
              "', 0, 0, 0, 0, c.cost, c.currency FROM (SELECT) research "
              "LEFT JOIN LATERAL (SELECT x.* FROM (SELECT WHERE EXISTS "
              "(SELECT FROM mana_ai.model_prices) OFFSET 0) priced "
              "CROSS JOIN LATERAL mana_ai.cost_of('" +
              name +
              "', '', clock_timestamp(), 0, 0, 0) x) c ON true "
              "RETURNING id::text, CASE WHEN cost IS NOT NULL "
              "THEN least(ceil(cost * 1000000), 9e18) END::bigint, currency") {}
};

Statements& statements_of(ResearchKind kind) {
    static Statements web("web-research", "web_research_per_day");
    static Statements deep("deep-research", "deep_research_per_day");
    return kind == ResearchKind::Web ? web : deep;
}

}  // namespace

ResearchCharge charge_research(const ClaimedMission& claimed, ResearchKind kind) {
    const std::string_view user = claimed.user_id;
    const std::string_view agent = claimed.agent ? claimed.agent->id : std::string_view();
    const std::string_view mission = claimed.mission_id;
    const auto limit = kind == ResearchKind::Web ? pg::settings::user_web_research_per_day()
                                                 : pg::settings::user_deep_research_per_day();
    Statements& statements = statements_of(kind);
    lock_budgets();
    const pg::Param most = limit ? pg::Param(*limit) : pg::Param(pg::Null{INT8OID});
    if (statements.is_allowed.execute({user, most}).rows.front().number(0) == 0)
        return {std::nullopt, "daily-limit"};
    if (!statements.find_short_budget.execute({user, agent, mission}).rows.empty())
        return {std::nullopt, "budget"};
    const auto rows =
        statements.charge.execute({user, agent, mission, std::string_view(claimed.run_id)}).rows;
    const pg::Row& row = rows.front();
    ResearchUse use{row.text(0), 0, {}};
    if (!row.is_null(1)) {
        use.cost_millionths = row.number(1);
        use.currency = row.text(2);
    }
    return {use, nullptr};
}

void take_charge_back(const ResearchUse& use) {
    static pg::Statement take_back("DELETE FROM mana_ai.token_usage WHERE id = $1::uuid");
    lock_budgets();
    take_back.execute({std::string_view(use.id)});
}

void count_research_cost(const ClaimedMission& claimed, const ResearchUse& use) {
    if (!use.currency.empty())
        count_cost(label_of_agent(claimed), use.cost_millionths, use.currency);
}

}  // namespace mana_ai
