#include "mana_ai/extension/run/restore_iterations.hpp"

#include <algorithm>
#include <map>

#include "mana_ai/core/text/json.hpp"
#include "mana_ai/extension/run/planning_record.hpp"
#include "mana_ai/extension/run/write_back.hpp"
#include "mana_ai/extension/sync/sync_table.hpp"
#include "mana_ai/pg/call_watch.hpp"
#include "mana_ai/pg/failpoint.hpp"
#include "mana_ai/pg/guard.hpp"
#include "mana_ai/pg/log.hpp"
#include "mana_ai/pg/metrics.hpp"
#include "mana_ai/pg/settings.hpp"
#include "mana_ai/pg/spi.hpp"
#include "mana_ai/pg/subtransaction.hpp"
#include "mana_ai/pg/transaction.hpp"

namespace mana_ai {

namespace {

// A device that goes on pushing an old copy must not make us write for ever.
constexpr int64_t kMostRestores = 5;
constexpr core::Instant kFirstPause = core::kMicrosPerSecond;  // four times as long after each

struct Newest {
    std::optional<std::string> space_id;
    core::Instant clock = 0;  // of the iterations
    int64_t version = 0;
    std::vector<std::string> ids;
};

// Locks the snapshot and then the schedule, as the trigger does. Nullopt: there is nothing to do.
std::optional<Newest> lock_mission(const SuspectMission& mission, core::Instant now) {
    static pg::Statement lock_snapshot(R"sql(
SELECT space_id, version, mana_ai.newest_clock(record, clocks, ARRAY['iterations']),
       mana_ai.raw_size(record) <= $3
  FROM mana_ai.mission_snapshots WHERE user_id = $1 AND mission_id = $2 FOR UPDATE NOWAIT)sql");
    static pg::Statement lock_schedule(R"sql(
SELECT 1 FROM mana_ai.mission_schedule
 WHERE user_id = $1 AND mission_id = $2 AND check_iterations_at <= $3 FOR UPDATE NOWAIT)sql");
    static pg::Statement select_ids(R"sql(
SELECT e.iteration ->> 'id'
  FROM mana_ai.mission_snapshots m,
       jsonb_array_elements(CASE WHEN jsonb_typeof(m.record -> 'iterations') = 'array'
                                 THEN m.record -> 'iterations' ELSE '[]' END) AS e(iteration)
 WHERE m.user_id = $1 AND m.mission_id = $2 AND e.iteration ->> 'id' IS NOT NULL)sql");
    static pg::Statement find_mark("SELECT 1 WHERE mana_ai.waits_for_repair($1, $2)");
    const std::string_view user = mission.user_id;
    const std::string_view id = mission.mission_id;
    const auto rows = lock_snapshot.execute({user, id, pg::settings::max_record_size()}).rows;
    if (lock_schedule.execute({user, id, pg::Timestamp{now}}).rows.empty() || rows.empty() ||
        rows.front().number(3) == 0)
        return std::nullopt;
    if (!find_mark.execute({user, id}).rows.empty())
        throw pg::make_error(ERRCODE_LOCK_NOT_AVAILABLE,
                             "the mission's snapshot waits for its repair");
    Newest newest;
    newest.space_id = rows.front().optional_text(0);
    newest.version = rows.front().number(1);
    newest.clock = std::max<core::Instant>(rows.front().optional_instant(2).value_or(0), 0);
    for (const pg::Row& row : select_ids.execute({user, id}).rows)
        newest.ids.push_back(row.text(0));
    return newest;
}

struct LostIteration {
    std::string id;
    std::string iteration;  // JSON
    bool is_ours = false;   // the log has a row of ours that says so
    std::optional<std::string> actor;
};

// Of every version of an iteration that the log has, the one with which a device has got on
// furthest; of those the newest: steps that were carried out must not be carried out again. What
// was before a deletion of the mission went with it.
pg::Statement& lost_statement(const SyncTable& table) {
    static std::map<std::string, pg::Statement> statements;
    const std::string stamp = "coalesce(c." + table.stamps_column +
                              " -> 'iterations' ->> 'at', c." + table.stamps_column +
                              " ->> 'iterations', '')";
    const std::string sql =
        std::string(R"sql(
WITH version AS (
  SELECT e.iteration ->> 'id' AS id, e.iteration, c.created_at, )sql") +
        stamp + " AS stamp, " + (table.has_actor ? "c.actor" : "NULL::jsonb") +
        R"sql( AS actor, c.client_id = 'mana-ai-runner' AND )sql" +
        (table.has_actor ? "c.actor ->> 'iterationId' IS NOT DISTINCT FROM e.iteration ->> 'id'"
                         : "false") +
        R"sql( AS is_ours,
         (CASE WHEN coalesce(e.iteration ->> 'userFeedback', '') = '' THEN 0 ELSE 1 END)
         + (SELECT count(*)
              FROM jsonb_array_elements(CASE WHEN jsonb_typeof(e.iteration -> 'plan') = 'array'
                                             THEN e.iteration -> 'plan' ELSE '[]' END) AS s(step)
             WHERE s.step ->> 'status' IS DISTINCT FROM 'planned') AS progress
    FROM ONLY )sql" +
        table.qualified_name +
        R"sql( c,
         jsonb_array_elements(CASE WHEN jsonb_typeof(c.data -> 'iterations') = 'array'
                                   THEN c.data -> 'iterations' ELSE '[]' END) AS e(iteration)
   WHERE c.user_id = $1 AND c.app_id || '' = 'ai' AND c.table_name = 'aiMissions'
     AND c.record_id = $2 AND e.iteration ->> 'source' = 'server'
     AND e.iteration ->> 'id' <> ALL ($3)
     AND c.created_at > coalesce((SELECT max(d.created_at) FROM ONLY )sql" +
        table.qualified_name + R"sql( d
                                   WHERE d.user_id = $1 AND d.app_id || '' = 'ai'
                                     AND d.table_name = 'aiMissions' AND d.record_id = $2
                                     AND (d.op = 'delete' OR coalesce(d.data ->> 'deletedAt', '') <> '')),
                                 '-infinity'))
SELECT DISTINCT ON (v.id) v.id, v.iteration::text,
       bool_or(v.is_ours) OVER w,
       first_value(v.actor::text) OVER (PARTITION BY v.id ORDER BY v.is_ours DESC, v.created_at)
  FROM version v WINDOW w AS (PARTITION BY v.id)
 ORDER BY v.id, v.progress DESC, v.stamp COLLATE "C" DESC, v.created_at DESC)sql";
    return statements.try_emplace(sql, sql).first->second;
}

// As the table's owner and under the policy for this user; what its code does is rolled back.
std::vector<LostIteration> lost_iterations(const SuspectMission& mission, const Newest& newest) {
    const SyncTable table = attached_sync_table();
    pg::Statement& select_lost = lost_statement(table);
    std::vector<LostIteration> lost;
    std::optional<pg::PgError> error;
    auto read = [&] {
        const pg::RoleScope as_owner(table.owner);
        pg::guarded([&mission] {
            pg::set_for_scope("app.current_user_id", mission.user_id.c_str());
            pg::set_for_scope("app.current_user_space_ids", "");
        });
        auto rows = select_lost
                        .execute({std::string_view(mission.user_id),
                                  std::string_view(mission.mission_id), &newest.ids})
                        .rows;
        for (const pg::Row& row : rows)
            lost.push_back({row.text(0), row.text(1), row.number(2) != 0, row.optional_text(3)});
        return false;
    };
    const auto watched = pg::watch_call(pg::settings::sync_table_timeout_us(),
                                        [&] { error = pg::in_subtransaction(read); });
    if (watched.error)
        error = watched.error;
    if (error)
        throw watched.timed_out ? pg::make_timeout_error() : pg::as_ordinary_error(*error);
    return lost;
}

// Not what a client has called ours. The row that we wrote it with may be gone, or have no actor.
bool was_written_by_us(const SuspectMission& mission, const LostIteration& lost) {
    if (lost.is_ours)
        return true;
    static pg::Statement find_run(R"sql(
SELECT 1 FROM mana_ai.runs WHERE user_id = $1 AND mission_id = $2 AND iteration_id = $3)sql");
    return !find_run
                .execute({std::string_view(mission.user_id), std::string_view(mission.mission_id),
                          std::string_view(lost.id)})
                .rows.empty();
}

struct History {
    int64_t restores = 0;
    core::Instant may_be_restored_at = 0;
};

History history_of(const SuspectMission& mission, const LostIteration& lost) {
    static pg::Statement select_history(R"sql(
SELECT restores, restored_at FROM mana_ai.restored_iterations
 WHERE user_id = $1 AND mission_id = $2 AND iteration_id = $3)sql");
    const auto rows =
        select_history
            .execute({std::string_view(mission.user_id), std::string_view(mission.mission_id),
                      std::string_view(lost.id)})
            .rows;
    if (rows.empty())
        return {};
    History history;
    history.restores = rows.front().number(0);
    history.may_be_restored_at =
        rows.front().optional_instant(1).value_or(0) +
        (kFirstPause << 2 * std::clamp<int64_t>(history.restores - 1, 0, 10));
    return history;
}

void remember_restore(const SuspectMission& mission, const LostIteration& lost, core::Instant now) {
    static pg::Statement remember(R"sql(
INSERT INTO mana_ai.restored_iterations AS r (user_id, mission_id, iteration_id, restored_at)
VALUES ($1, $2, $3, $4)
    ON CONFLICT (user_id, mission_id, iteration_id)
    DO UPDATE SET restores = r.restores + 1, restored_at = $4)sql");
    remember.execute({std::string_view(mission.user_id), std::string_view(mission.mission_id),
                      std::string_view(lost.id), pg::Timestamp{now}});
}

// Further losses are not answered any more; the first of them is on record (mission_problems).
void give_up(const SuspectMission& mission, const LostIteration& lost, core::Instant now) {
    static pg::Statement note(R"sql(
UPDATE mana_ai.restored_iterations SET given_up_at = $4
 WHERE user_id = $1 AND mission_id = $2 AND iteration_id = $3 AND given_up_at IS NULL)sql");
    if (note.execute({std::string_view(mission.user_id), std::string_view(mission.mission_id),
                      std::string_view(lost.id), pg::Timestamp{now}})
            .processed > 0)
        pg::log_warning("iteration " + pg::printable(lost.id) + " of mission " +
                        pg::printable(mission.mission_id) + " of user " +
                        pg::printable(mission.user_id) +
                        " is not put back any more: devices have taken it away " +
                        std::to_string(kMostRestores + 1) + " times");
}

// Each where it belongs by its start; the others keep their order.
std::string merged_iterations(const SuspectMission& mission, const std::string& lost) {
    static pg::Statement merge(R"sql(
WITH held AS MATERIALIZED (
  SELECT e.iteration, e.place
    FROM mana_ai.mission_snapshots m,
         jsonb_array_elements(CASE WHEN jsonb_typeof(m.record -> 'iterations') = 'array'
                                   THEN m.record -> 'iterations' ELSE '[]' END)
           WITH ORDINALITY AS e(iteration, place)
   WHERE m.user_id = $1 AND m.mission_id = $2)
SELECT jsonb_build_object('iterations', jsonb_agg(x.iteration ORDER BY x.place, x.started))::text
  FROM (SELECT iteration, 2 * place AS place, '' AS started FROM held
        UNION ALL
        SELECT l.iteration,
               coalesce((SELECT 2 * min(h.place) - 1 FROM held h
                          WHERE h.iteration ->> 'startedAt' COLLATE "C"
                                > l.iteration ->> 'startedAt' COLLATE "C"), 9e18::bigint),
               coalesce(l.iteration ->> 'startedAt' COLLATE "C", '')
          FROM jsonb_array_elements($3::jsonb) AS l(iteration)) x)sql");
    return merge
        .execute({std::string_view(mission.user_id), std::string_view(mission.mission_id),
                  std::string_view(lost)})
        .rows.front()
        .take_text(0);
}

void settle_check(const SuspectMission& mission, std::optional<core::Instant> again) {
    static pg::Statement settle(R"sql(
UPDATE mana_ai.mission_schedule SET check_iterations_at = $3
 WHERE user_id = $1 AND mission_id = $2)sql");
    settle.execute(
        {std::string_view(mission.user_id), std::string_view(mission.mission_id),
         again ? pg::Param(pg::Timestamp{*again}) : pg::Param(pg::Null{TIMESTAMPTZOID})});
}

void check_taken_over(const SuspectMission& mission, int64_t version) {
    static pg::Statement find_own_write(R"sql(
SELECT 1 FROM mana_ai.mission_snapshots WHERE user_id = $1 AND mission_id = $2 AND version > $3)sql");
    if (find_own_write
            .execute(
                {std::string_view(mission.user_id), std::string_view(mission.mission_id), version})
            .rows.empty())
        throw pg::make_error(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                             "the restored plan was not folded into the mission's snapshot", {},
                             "Is the trigger of mana_ai.attach() disabled?");
}

}  // namespace

std::vector<SuspectMission> missions_to_check(core::Instant now, int limit) {
    static pg::Statement select_suspects(R"sql(
SELECT user_id, mission_id FROM mana_ai.mission_schedule
 WHERE check_iterations_at <= $1 ORDER BY check_iterations_at LIMIT $2)sql");
    std::vector<SuspectMission> suspects;
    for (const pg::Row& row : select_suspects.execute({pg::Timestamp{now}, int64_t{limit}}).rows)
        suspects.push_back({row.text(0), row.text(1)});
    return suspects;
}

std::optional<core::Instant> next_check_at() {
    static pg::Statement select_next(R"sql(
SELECT check_iterations_at FROM mana_ai.mission_schedule
 WHERE check_iterations_at IS NOT NULL ORDER BY check_iterations_at LIMIT 1)sql");
    const auto rows = select_next.execute({}, true).rows;
    return rows.empty() ? std::nullopt : rows.front().optional_instant(0);
}

void check_later(const SuspectMission& mission, core::Instant at) {
    static pg::Statement put_off(R"sql(
UPDATE mana_ai.mission_schedule s SET check_iterations_at = $3
  FROM (SELECT user_id, mission_id FROM mana_ai.mission_schedule
         WHERE user_id = $1 AND mission_id = $2 AND check_iterations_at IS NOT NULL
           FOR UPDATE SKIP LOCKED) k
 WHERE s.user_id = k.user_id AND s.mission_id = k.mission_id)sql");
    put_off.execute({std::string_view(mission.user_id), std::string_view(mission.mission_id),
                     pg::Timestamp{at}});
}

void restore_iterations(const SuspectMission& mission, core::Instant now, TablePatience& patience) {
    const auto newest = lock_mission(mission, now);
    if (!newest) {
        settle_check(mission, std::nullopt);
        return;
    }
    // What is written then would win against all devices for days, or lose.
    if (newest->clock > now + kMaxClockLead) {
        settle_check(mission, newest->clock - kMaxClockLead);
        return;
    }
    std::string put_back = "[";
    std::optional<std::string> actor;
    std::optional<core::Instant> again;
    int count = 0;
    for (const LostIteration& lost : lost_iterations(mission, *newest)) {
        if (!was_written_by_us(mission, lost))
            continue;
        const History history = history_of(mission, lost);
        if (history.restores >= kMostRestores) {
            give_up(mission, lost, now);
            continue;
        }
        if (history.may_be_restored_at > now) {
            again =
                std::min(again.value_or(history.may_be_restored_at), history.may_be_restored_at);
            continue;
        }
        put_back += (count++ > 0 ? "," : "") + lost.iteration;
        actor = lost.actor;
        remember_restore(mission, lost, now);
    }
    put_back += "]";
    if (count > 0) {
        const std::string written_at = core::to_iso_millis(instant_of_writing(now, newest->clock));
        const std::string stamps = core::dump_json({{"iterations", written_at}});
        const std::string data = merged_iterations(mission, put_back);
        insert_change({mission.user_id, mission.mission_id, newest->space_id, data, stamps, actor},
                      "a restored plan", patience);
        MANA_AI_FAILPOINT("restore.inserted");
        check_taken_over(mission, newest->version);
        pg::metrics::count_at_commit(core::Metric::IterationsRestored, {}, count);
    }
    settle_check(mission, again);
}

}  // namespace mana_ai
