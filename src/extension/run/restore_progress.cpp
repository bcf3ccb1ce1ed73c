#include "mana_ai/extension/run/restore_progress.hpp"

#include <map>

#include "mana_ai/pg/spi.hpp"

namespace mana_ai {

namespace {

std::string from_log(const SyncTable& table) {
    return (table.is_partitioned ? "FROM " : "FROM ONLY ") + table.qualified_name + " c";
}

// A mission that plans often has thousands of iterations, and devices work on the last ones.
constexpr int64_t kMostUnfinished = 200;

// Per iteration the version with the most steps, of equal ones the newest; and the newest feedback.
// No client takes a step or feedback back.
pg::Statement& progress_statement(const SyncTable& table) {
    static std::map<std::string, pg::Statement> statements;
    const std::string is_ours =
        table.has_actor ? R"sql(c.client_id = 'mana-ai-runner' AND pg_column_size(c.actor) <= 65536
           AND c.actor ->> 'iterationId' IS NOT DISTINCT FROM e.iteration ->> 'id'
           AND e.iteration ->> 'id' ~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$')sql"
                        : "false";
    const std::string sql = R"sql(
WITH held AS (
  SELECT * FROM unnest($4::text[], $5::text[]::int[], $6::text[]::boolean[]) AS h(id, steps, has_feedback)),
version AS MATERIALIZED (
  SELECT e.iteration ->> 'id' AS id, )sql" +
                            place_columns(table) + ", e.n::int - 1 AS n, " +
                            iterations_stamp(table) + R"sql( AS stamp,
         coalesce()sql" + is_ours +
                            R"sql(, false) AS is_ours,
         coalesce(e.iteration ->> 'userFeedback', '') <> '' AS has_feedback,
         (SELECT count(*)
            FROM jsonb_array_elements(CASE WHEN jsonb_typeof(e.iteration -> 'plan') = 'array'
                                           THEN e.iteration -> 'plan' ELSE '[]' END) AS s(step)
           WHERE s.step ->> 'status' IS DISTINCT FROM 'planned') AS steps
    )sql" + rows_of_mission(table, R"sql(,
         jsonb_array_elements(CASE WHEN jsonb_typeof(c.data -> 'iterations') = 'array'
                                   THEN c.data -> 'iterations' ELSE '[]' END)
           WITH ORDINALITY AS e(iteration, n))sql") +
                            R"sql(
     AND )sql" + is_at_places(table) +
                            R"sql( AND e.iteration ->> 'source' = 'server'
     AND e.iteration ->> 'id' IN (SELECT h.id FROM held h)),
best AS (
  SELECT DISTINCT ON (v.id) v.*,
         bool_or(v.is_ours) OVER w OR v.id IN (SELECT unnest($7::text[])) AS is_known,
         first_value(v.place) OVER f AS feedback_place, first_value(v.leaf) OVER f AS feedback_leaf, first_value(v.n) OVER f AS feedback_n,
         bool_or(v.has_feedback) OVER w AS any_feedback
    FROM version v
  WINDOW w AS (PARTITION BY v.id),
         f AS (PARTITION BY v.id ORDER BY v.has_feedback DESC, v.stamp COLLATE "C" DESC)
   ORDER BY v.id, v.steps DESC, v.stamp COLLATE "C" DESC),
lost AS (
  SELECT b.id,
         CASE WHEN b.steps > h.steps THEN
           (SELECT jsonb_build_object('plan', x.iteration -> 'plan', 'overallStatus', x.iteration -> 'overallStatus')
              FROM (SELECT c.data -> 'iterations' -> b.n AS iteration )sql" +
                            row_at(table, "b.place", "b.leaf") + R"sql() x)
           ELSE '{}' END
         || CASE WHEN b.any_feedback AND NOT h.has_feedback THEN
           (SELECT jsonb_build_object('userFeedback', c.data -> 'iterations' -> b.feedback_n -> 'userFeedback')
              )sql" + row_at(table, "b.feedback_place", "b.feedback_leaf") +
                            R"sql()
           ELSE '{}' END AS fields
    FROM best b JOIN held h ON h.id = b.id
   WHERE b.is_known AND (b.steps > h.steps OR b.any_feedback AND NOT h.has_feedback))
SELECT s.id, s.fields::text
  FROM (SELECT l.*, sum(pg_column_size(l.fields)) OVER (ORDER BY l.id) AS size FROM lost l) s
 WHERE s.size <= $8)sql";
    return statements.try_emplace(sql, sql).first->second;
}

}  // namespace

std::string rows_of_mission(const SyncTable& table, const std::string& elements) {
    return from_log(table) + elements +
           " WHERE c.user_id = $1 AND c.app_id || '' = 'ai' AND c.table_name = 'aiMissions'"
           " AND c.record_id = $2";
}

// A ctid is unique in a leaf only.
std::string place_of_row(const SyncTable& table) {
    return table.is_partitioned ? "c.tableoid::text || c.ctid::text" : "c.ctid::text";
}

std::string place_columns(const SyncTable& table) {
    return table.is_partitioned ? "c.ctid AS place, c.tableoid AS leaf"
                                : "c.ctid AS place, NULL::oid AS leaf";
}

std::string is_at_places(const SyncTable& table) {
    if (!table.is_partitioned)
        return "c.ctid = ANY ($3::text[]::tid[])";
    return "c.ctid = ANY (ARRAY(SELECT substr(p.place, strpos(p.place, '('))::tid"
           " FROM unnest($3::text[]) AS p(place))) AND (" +
           place_of_row(table) + ") = ANY ($3::text[])";
}

std::string row_at(const SyncTable& table, const std::string& place, const std::string& leaf) {
    const std::string at = from_log(table) + " WHERE c.ctid = " + place;
    return table.is_partitioned ? at + " AND c.user_id = $1 AND c.tableoid = " + leaf : at;
}

std::string iterations_stamp(const SyncTable& table) {
    return "left(coalesce(c." + table.stamps_column + " -> 'iterations' ->> 'at', c." +
           table.stamps_column + " ->> 'iterations', ''), 100)";
}

std::vector<UnfinishedIteration> unfinished_iterations(const std::string& user_id,
                                                       const std::string& mission_id) {
    static pg::Statement select_unfinished(R"sql(
SELECT x.id, x.done, x.has_feedback
  FROM (SELECT e.iteration ->> 'id' AS id, e.place,
               coalesce(e.iteration ->> 'userFeedback', '') <> '' AS has_feedback,
               (SELECT count(*) FROM jsonb_array_elements(CASE WHEN jsonb_typeof(e.iteration -> 'plan') = 'array'
                                                               THEN e.iteration -> 'plan' ELSE '[]' END) AS s(step)
                 WHERE s.step ->> 'status' IS DISTINCT FROM 'planned') AS done,
               CASE WHEN jsonb_typeof(e.iteration -> 'plan') = 'array'
                    THEN jsonb_array_length(e.iteration -> 'plan') ELSE 0 END AS steps
          FROM (SELECT i.iteration, i.place
                  FROM mana_ai.mission_snapshots m,
                       jsonb_array_elements(CASE WHEN jsonb_typeof(m.record -> 'iterations') = 'array'
                                                 THEN m.record -> 'iterations' ELSE '[]' END)
                         WITH ORDINALITY AS i(iteration, place)
                 WHERE m.user_id = $1 AND m.mission_id = $2 AND i.iteration ->> 'source' = 'server'
                   AND octet_length(i.iteration ->> 'id') BETWEEN 1 AND 100
                 ORDER BY i.place DESC LIMIT $3) e) x
 WHERE x.done < x.steps OR NOT x.has_feedback
 ORDER BY x.place DESC)sql");
    std::vector<UnfinishedIteration> unfinished;
    for (pg::Row& row :
         select_unfinished
             .execute({std::string_view(user_id), std::string_view(mission_id), kMostUnfinished})
             .rows)
        unfinished.push_back({row.take_text(0), row.number(1), row.number(2) != 0});
    return unfinished;
}

std::vector<LostProgress> lost_progress(const SyncTable& table, const std::string& user_id,
                                        const std::string& mission_id,
                                        const std::vector<std::string>& places,
                                        const std::vector<UnfinishedIteration>& unfinished,
                                        const std::vector<std::string>& of_runs, int64_t room) {
    if (unfinished.empty() || places.empty())
        return {};
    std::vector<std::string> ids;
    std::vector<std::string> steps;
    std::vector<std::string> feedback;
    for (const UnfinishedIteration& iteration : unfinished) {
        ids.push_back(iteration.id);
        steps.push_back(std::to_string(iteration.steps));
        feedback.emplace_back(iteration.has_feedback ? "true" : "false");
    }
    std::vector<LostProgress> lost;
    for (pg::Row& row : progress_statement(table)
                            .execute({std::string_view(user_id), std::string_view(mission_id),
                                      &places, &ids, &steps, &feedback, &of_runs, room})
                            .rows)
        lost.push_back({row.take_text(0), row.take_text(1)});
    return lost;
}

}  // namespace mana_ai
