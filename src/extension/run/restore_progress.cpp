#include "mana_ai/extension/run/restore_progress.hpp"

#include <algorithm>
#include <map>
#include <optional>
#include <set>

#include "mana_ai/core/record/iteration_progress.hpp"
#include "mana_ai/extension/run/mission_rows.hpp"
#include "mana_ai/pg/spi.hpp"

namespace mana_ai {

namespace {

// A mission that plans often has thousands of iterations, and devices work on the last ones.
constexpr int64_t kMostUnfinished = 200;

// The different versions of iterations in these rows that devices have dealt with, the newest
// first; and those that tell that mana_ai wrote an iteration. A mission that was deleted and came
// back begins anew.
pg::Statement& versions_statement(const SyncTable& table) {
    static std::map<std::string, pg::Statement> statements;
    const std::string sql = R"sql(
WITH deletion AS MATERIALIZED (
  SELECT max(c.created_at)::timestamptz AS at )sql" +
                            rows_of_mission(table) + " AND " + is_at_places(table) + R"sql(
     AND (c.op = 'delete' OR coalesce(c.data ->> 'deletedAt', '') <> ''))
SELECT v.id, v.iteration::text, bool_or(v.is_ours)
  FROM (SELECT e.iteration ->> 'id' AS id, e.iteration, c.created_at, )sql" +
                            iterations_stamp(table) + " AS stamp, " + names_iteration(table) +
                            R"sql( AS is_ours
          )sql" + rows_of_mission(table, R"sql(,
               jsonb_array_elements(CASE WHEN jsonb_typeof(c.data -> 'iterations') = 'array'
                                         THEN c.data -> 'iterations' ELSE '[]' END) AS e(iteration))sql") +
                            " AND " + is_at_places(table) + R"sql( AND c.op <> 'delete'
           AND c.created_at > coalesce((SELECT d.at FROM deletion d), '-infinity')
           AND e.iteration ->> 'id' = ANY ($4::text[]) AND e.iteration ->> 'source' = 'server'
        OFFSET 0) v
 WHERE v.is_ours OR coalesce(v.iteration ->> 'userFeedback', '') <> ''
    OR EXISTS (SELECT 1
                 FROM jsonb_array_elements(CASE WHEN jsonb_typeof(v.iteration -> 'plan') = 'array'
                                                THEN v.iteration -> 'plan' ELSE '[]' END) AS s(step)
                WHERE coalesce(s.step ->> 'status', '') NOT IN ('planned', 'staged'))
 GROUP BY v.id, v.iteration
 ORDER BY v.id, max(v.stamp COLLATE "C") DESC NULLS LAST, max(v.created_at) DESC)sql";
    return statements.try_emplace(sql, sql).first->second;
}

struct Versions {
    std::vector<core::Json> iterations;
    bool is_ours = false;
};

}  // namespace

std::vector<UnfinishedIteration> unfinished_iterations(std::string_view user_id,
                                                       std::string_view mission_id) {
    static pg::Statement select_unfinished(R"sql(
SELECT e.iteration ->> 'id', e.iteration::text
  FROM (SELECT i.iteration, i.place
          FROM mana_ai.mission_snapshots m,
               jsonb_array_elements(CASE WHEN jsonb_typeof(m.record -> 'iterations') = 'array'
                                         THEN m.record -> 'iterations' ELSE '[]' END)
                 WITH ORDINALITY AS i(iteration, place)
         WHERE m.user_id = $1 AND m.mission_id = $2 AND i.iteration ->> 'source' = 'server'
           AND octet_length(i.iteration ->> 'id') BETWEEN 1 AND 100
         ORDER BY i.place DESC LIMIT $3) e
 WHERE coalesce(e.iteration ->> 'userFeedback', '') = ''
    OR EXISTS (SELECT 1
                 FROM jsonb_array_elements(CASE WHEN jsonb_typeof(e.iteration -> 'plan') = 'array'
                                                THEN e.iteration -> 'plan' ELSE '[]' END) AS s(step)
                WHERE s.step ->> 'status' IN ('planned', 'staged'))
 ORDER BY e.place DESC)sql");
    std::vector<UnfinishedIteration> unfinished;
    std::set<std::string> seen;
    for (pg::Row& row : select_unfinished.execute({user_id, mission_id, kMostUnfinished}).rows)
        if (seen.insert(row.text(0)).second)
            unfinished.push_back({row.text(0), row.take_text(1)});
    return unfinished;
}

LostProgress find_lost_progress(const SyncTable& table, std::string_view user_id,
                                std::string_view mission_id, const std::vector<std::string>& places,
                                const std::vector<UnfinishedIteration>& unfinished,
                                const std::vector<std::string>& of_runs, int64_t room) {
    LostProgress lost;
    if (unfinished.empty() || places.empty())
        return lost;
    std::vector<std::string> ids;
    for (const UnfinishedIteration& iteration : unfinished)
        ids.push_back(iteration.id);
    std::map<std::string, Versions> versions;
    for (const pg::Row& row :
         versions_statement(table).execute({user_id, mission_id, &places, &ids}).rows) {
        Versions& of_iteration = versions[row.text(0)];
        of_iteration.is_ours |= row.number(2) != 0;
        if (auto iteration = core::parse_json(row.text(1)))
            of_iteration.iterations.push_back(std::move(*iteration));
    }
    core::Json fields = core::Json::object();
    for (const UnfinishedIteration& iteration : unfinished) {
        const auto found = versions.find(iteration.id);
        if (found == versions.end() ||
            !(found->second.is_ours ||
              std::find(of_runs.begin(), of_runs.end(), iteration.id) != of_runs.end()))
            continue;
        const auto held = core::parse_json(iteration.iteration);
        auto changes = held ? core::lost_progress(*held, found->second.iterations) : std::nullopt;
        if (!changes)
            continue;
        if (iteration.is_hopeless) {
            lost.hopeless.push_back(iteration.id);
            continue;
        }
        core::Json after = *held;
        after.update(*changes);
        const auto growth = static_cast<int64_t>(core::dump_json(after).size()) -
                            static_cast<int64_t>(core::dump_json(*held).size());
        if (growth > room) {
            lost.left++;
            continue;
        }
        room -= std::max<int64_t>(growth, 0);
        lost.ids.push_back(iteration.id);
        fields[iteration.id] = std::move(*changes);
    }
    lost.fields = core::dump_json(fields);
    return lost;
}

}  // namespace mana_ai
