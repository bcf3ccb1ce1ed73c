#include "mana_ai/extension/lease/stops.hpp"

#include <algorithm>
#include <string_view>

#include "mana_ai/pg/metrics.hpp"
#include "mana_ai/pg/session_lock.hpp"
#include "mana_ai/pg/settings.hpp"
#include "mana_ai/pg/spi.hpp"

namespace mana_ai {

bool Stops::is_total() const {
    if (all || models.empty())
        return all;
    const auto planners = pg::settings::planner_models();
    return std::all_of(planners.begin(), planners.end(),
                       [this](const std::string& model) { return models.contains(model); });
}

bool Stops::hold_all_of(const Stops& others) const {
    const auto holds = [](const auto& mine, const auto& theirs) {
        return std::includes(mine.begin(), mine.end(), theirs.begin(), theirs.end());
    };
    return (all || !others.all) && holds(users, others.users) && holds(agents, others.agents) &&
           holds(models, others.models) && holds(tools, others.tools);
}

bool free_stopped_missions(core::Instant held_until) {
    static pg::Statement free_missions(R"sql(
WITH held AS (
  SELECT s.user_id, s.mission_id FROM mana_ai.mission_schedule s
   WHERE s.decision = 'skipped-stopped' AND s.lease_owner IS NULL AND s.due_at IS NOT NULL
     AND s.not_before IS NOT NULL AND s.decided_at <= $1),
ours AS (
  SELECT s.user_id, s.mission_id FROM mana_ai.mission_schedule s
   WHERE s.decision = 'skipped-stopped' AND s.lease_owner IS NULL AND s.due_at IS NOT NULL
     AND s.not_before IS NOT NULL AND s.decided_at <= $1
     FOR UPDATE SKIP LOCKED),
freed AS (
  UPDATE mana_ai.mission_schedule s SET not_before = NULL, wake_at = s.due_at
    FROM ours o
   WHERE s.user_id = o.user_id AND s.mission_id = o.mission_id)
SELECT (SELECT count(*) FROM held) = (SELECT count(*) FROM ours))sql");
    return free_missions.execute({pg::Timestamp{held_until}}).rows.front().number(0) != 0;
}

Stops read_stops() {
    static pg::Statement select_stops(R"sql(
SELECT scope FROM mana_ai.stops WHERE resumed_at IS NULL
UNION ALL
SELECT 'erased:' || user_id FROM mana_ai.erasures_under_way)sql");
    Stops stops;
    for (const pg::Row& row : select_stops.execute({}, true).rows) {
        const std::string scope = row.text(0);
        const size_t colon = scope.find(':');
        if (colon == std::string::npos) {
            stops.all = true;
            continue;
        }
        const std::string_view kind = std::string_view(scope).substr(0, colon);
        auto& ids = kind == "user"     ? stops.users
                    : kind == "agent"  ? stops.agents
                    : kind == "model"  ? stops.models
                    : kind == "erased" ? stops.erased
                                       : stops.tools;
        ids.insert(scope.substr(colon + 1));
    }
    return stops;
}

void settle_erasures(const std::vector<std::string>& users, uint32_t engine) {
    static pg::Statement select_engines(R"sql(
SELECT DISTINCT unnest(engines) FROM mana_ai.erasures_under_way WHERE user_id = ANY ($1))sql");
    static pg::Statement settle("SELECT mana_ai.settle_erasures($1, $2)");
    std::vector<std::string> gone;
    for (const pg::Row& row : select_engines.execute({&users}, true).rows) {
        const auto other = static_cast<uint32_t>(row.number(0));
        if (other == engine || !pg::is_session_lock_held(pg::LockKey::Engine, other))
            gone.push_back(std::to_string(other));
    }
    const int64_t failed = settle.execute({&users, &gone}).rows.front().number(0);
    if (failed > 0)
        pg::metrics::count_at_commit(core::Metric::ErasureFailures, {},
                                     static_cast<uint64_t>(failed));
}

}  // namespace mana_ai
