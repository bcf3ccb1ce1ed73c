#include "mana_ai/extension/research/web_research_use.hpp"

#include "mana_ai/extension/lease/ledger.hpp"
#include "mana_ai/pg/settings.hpp"
#include "mana_ai/pg/spi.hpp"

extern "C" {
#include "catalog/pg_type_d.h"
}

namespace mana_ai {

std::optional<WebResearchUse> charge_web_research(const ClaimedMission& claimed) {
    std::optional<std::string> agent_id;
    if (claimed.agent && !claimed.agent->id.empty())
        agent_id = claimed.agent->id;
    const auto limit = pg::settings::user_web_research_per_day();
    lock_budgets();
    // The name is in the text, so that the index on these rows can be used. At most
    // as many rows as the limit allows are read.
    static pg::Statement charge(R"sql(
INSERT INTO mana_ai.token_usage (user_id, agent_id, mission_id, tokens_used, run_id, model,
                                 prompt_tokens, cached_tokens, completion_tokens, reasoning_tokens,
                                 cost, currency)
SELECT $1, $2, $3, 0, $4::uuid, 'web-research', 0, 0, 0, 0, c.cost, c.currency
  FROM (SELECT coalesce((SELECT b.web_research_per_day FROM mana_ai.user_budgets b
                          WHERE b.user_id = $1), $5) AS most) l
  LEFT JOIN LATERAL (SELECT x.*
                       FROM (SELECT WHERE EXISTS (SELECT FROM mana_ai.model_prices) OFFSET 0) priced
                      CROSS JOIN LATERAL mana_ai.cost_of('web-research', '', clock_timestamp(),
                                                         0, 0, 0) x) c
    ON true
 WHERE l.most IS NULL
    OR l.most > (SELECT count(*)
                   FROM (SELECT FROM mana_ai.token_usage u
                          WHERE u.user_id = $1 AND u.model = 'web-research'
                            AND u.ts > now() - interval '24 hours'
                          LIMIT l.most) had)
RETURNING id::text, CASE WHEN cost IS NOT NULL THEN least(ceil(cost * 1000000), 9e18) END::bigint, currency)sql");
    const auto rows =
        charge
            .execute({std::string_view(claimed.user_id), pg::text_or_null(agent_id),
                      std::string_view(claimed.mission_id), std::string_view(claimed.run_id),
                      limit ? pg::Param(*limit) : pg::Param(pg::Null{INT8OID})})
            .rows;
    if (rows.empty())
        return std::nullopt;
    const pg::Row& row = rows.front();
    WebResearchUse use{row.text(0), 0, {}};
    if (!row.is_null(1)) {
        use.cost_millionths = row.number(1);
        use.currency = row.text(2);
    }
    return use;
}

void take_charge_back(const WebResearchUse& use) {
    static pg::Statement take_back("DELETE FROM mana_ai.token_usage WHERE id = $1::uuid");
    lock_budgets();
    take_back.execute({std::string_view(use.id)});
}

}  // namespace mana_ai
