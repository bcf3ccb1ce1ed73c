#include "mana_ai/extension/run/restore_iterations.hpp"

#include <algorithm>
#include <map>

#include "mana_ai/core/text/json.hpp"
#include "mana_ai/extension/run/mission_rows.hpp"
#include "mana_ai/extension/run/planning_record.hpp"
#include "mana_ai/extension/run/restore_progress.hpp"
#include "mana_ai/extension/run/write_back.hpp"
#include "mana_ai/extension/sync/fold_batches.hpp"
#include "mana_ai/extension/sync/sync_table.hpp"
#include "mana_ai/pg/call_watch.hpp"
#include "mana_ai/pg/failpoint.hpp"
#include "mana_ai/pg/guard.hpp"
#include "mana_ai/pg/log.hpp"
#include "mana_ai/pg/metrics.hpp"
#include "mana_ai/pg/settings.hpp"
#include "mana_ai/pg/spi.hpp"
#include "mana_ai/pg/subtransaction.hpp"
#include "mana_ai/pg/time.hpp"
#include "mana_ai/pg/transaction.hpp"

namespace mana_ai {

namespace {

// A device that repeatedly pushes an old copy must not cause endless writes.
constexpr int64_t kMostRestores = 5;
constexpr core::Instant kFirstPause = core::kMicrosPerSecond;  // four times as long after each
// Nor must failing attempts be repeated for ever.
constexpr int64_t kMostFailures = 7;
constexpr core::Instant kFirstFailurePause = 10 * core::kMicrosPerSecond;  // likewise
constexpr core::Instant kLongestMarkPause = core::kMicrosPerMinute;
constexpr core::Instant kFoldPause = 10 * core::kMicrosPerSecond;

struct Newest {
    std::optional<std::string> space_id;
    core::Instant clock = 0;  // of the iterations
    int64_t version = 0;
    int64_t size = 0;  // of the record, in memory
    // Until when the mission waits, if it is not running.
    std::optional<core::Instant> not_before;
    std::optional<core::Instant> wake_at;
    bool is_running = false;
    std::vector<std::string> ids;
    std::optional<core::Instant> marked_at;  // since when the snapshot waits for repair
};

// Locks the snapshot and then the schedule, like the trigger. Nullopt: there is nothing to do.
std::optional<Newest> lock_mission(const SuspectMission& mission, core::Instant now) {
    static pg::Statement lock_snapshot(R"sql(
SELECT space_id, version,
       CASE WHEN mana_ai.raw_size(record, clocks) <= $3 THEN
         mana_ai.newest_clock(record, clocks, ARRAY['iterations']) END,
       mana_ai.raw_size(record, clocks) <= $3, mana_ai.raw_size(record)
  FROM mana_ai.mission_snapshots WHERE user_id = $1 AND mission_id = $2 FOR UPDATE NOWAIT)sql");
    static pg::Statement lock_schedule(R"sql(
SELECT lease_owner IS NOT NULL, not_before, wake_at FROM mana_ai.mission_schedule
 WHERE user_id = $1 AND mission_id = $2 AND check_iterations_at <= $3 FOR UPDATE NOWAIT)sql");
    static pg::Statement select_ids(R"sql(
SELECT e.iteration ->> 'id'
  FROM mana_ai.mission_snapshots m,
       jsonb_array_elements(CASE WHEN jsonb_typeof(m.record -> 'iterations') = 'array'
                                 THEN m.record -> 'iterations' ELSE '[]' END) AS e(iteration)
 WHERE m.user_id = $1 AND m.mission_id = $2 AND e.iteration ->> 'id' IS NOT NULL)sql");
    static pg::Statement find_mark(R"sql(
SELECT least((SELECT min(d.ts) FROM mana_ai.dirty_records d
               WHERE d.user_id = $1
                 AND (d.table_name = '' OR d.table_name = 'aiMissions' AND d.record_id = $2)),
             (SELECT o.ts FROM mana_ai.oversized_records o
               WHERE o.user_id = $1 AND o.table_name = 'aiMissions' AND o.record_id = $2)))sql");
    const std::string_view user = mission.user_id;
    const std::string_view id = mission.mission_id;
    const auto rows = lock_snapshot.execute({user, id, pg::settings::max_record_size()}).rows;
    const auto schedule = lock_schedule.execute({user, id, pg::Timestamp{now}}).rows;
    if (schedule.empty() || rows.empty() || rows.front().number(3) == 0)
        return std::nullopt;
    Newest newest;
    newest.is_running = schedule.front().number(0) != 0;
    newest.not_before = schedule.front().optional_instant(1);
    newest.wake_at = schedule.front().optional_instant(2);
    newest.marked_at = find_mark.execute({user, id}).rows.front().optional_instant(0);
    if (newest.marked_at)
        return newest;
    newest.size = rows.front().number(4);
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
    std::optional<std::string> actor;
};

struct LostIterations {
    std::vector<LostIteration> found;
    int64_t left = 0;  // further ones: too many or too large for one pass
};

// Of all versions of an iteration in the log, the one on which a device has progressed furthest,
// and of those the newest: steps that were carried out must not be carried out again. Iterations
// from before a deletion of the mission were deleted with it, also those that were put back while
// the deletion was in transit: its row is then older than the restored one, but not than the plan.
// The check for server iterations comes first, and only a few rows are read further: clients may
// push any amount of rows that merely look like the server's. Ids are searched in hashed
// subqueries: a mission that plans every few minutes has thousands of them, and so has each of its
// rows in the log.
pg::Statement& lost_statement(const SyncTable& table) {
    static std::map<std::string, pg::Statement> statements;
    const std::string actor =
        table.has_actor
            ? "(SELECT c.actor::text " + row_at(table, "r.actor_place", "r.actor_leaf") + ")"
            : "NULL::text";
    const std::string read = " AND " + is_at_places(table);
    const std::string from = rows_of_mission(table, R"sql(,
         jsonb_array_elements(CASE WHEN jsonb_typeof(c.data -> 'iterations') = 'array'
                                   THEN c.data -> 'iterations' ELSE '[]' END)
           WITH ORDINALITY AS e(iteration, n))sql");
    const std::string sql = R"sql(
WITH deletion AS MATERIALIZED (
  SELECT max(c.created_at)::timestamptz AS at )sql" +
                            rows_of_mission(table) + read + R"sql(
     AND (c.op = 'delete' OR coalesce(c.data ->> 'deletedAt', '') <> '')),
version AS (
  SELECT e.iteration ->> 'id' AS id, )sql" +
                            place_columns(table) + ", e.n::int - 1 AS n, c.created_at, " +
                            iterations_stamp(table) + " AS stamp, " + names_iteration(table) +
                            R"sql( AS is_ours,
         (CASE WHEN coalesce(e.iteration ->> 'userFeedback', '') = '' THEN 0 ELSE 1 END)
         + (SELECT count(*)
              FROM jsonb_array_elements(CASE WHEN jsonb_typeof(e.iteration -> 'plan') = 'array'
                                             THEN e.iteration -> 'plan' ELSE '[]' END) AS s(step)
             WHERE coalesce(s.step ->> 'status', '') NOT IN ('planned', 'staged')) AS progress
    )sql" + from + read + R"sql(
     AND c.created_at > coalesce((SELECT d.at FROM deletion d), '-infinity')
     AND coalesce(e.iteration ->> 'startedAt', '') COLLATE "C"
         >= coalesce((SELECT to_char(d.at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')
                        FROM deletion d), '')
     AND e.iteration ->> 'source' = 'server'
     AND octet_length(e.iteration ->> 'id') BETWEEN 1 AND 100
     AND e.iteration ->> 'id' NOT IN (SELECT unnest($4::text[]))),
known AS (
  SELECT DISTINCT ON (v.id) v.id, v.place, v.leaf, v.n,
         v.id IN (SELECT unnest($5::text[])) AS is_of_run,
         bool_or(v.is_ours) OVER (PARTITION BY v.id) AS is_ours,
         first_value(CASE WHEN v.is_ours THEN v.place END)
           OVER (PARTITION BY v.id ORDER BY v.is_ours DESC, v.created_at) AS actor_place,
         first_value(CASE WHEN v.is_ours THEN v.leaf END)
           OVER (PARTITION BY v.id ORDER BY v.is_ours DESC, v.created_at) AS actor_leaf
    FROM version v
   ORDER BY v.id, v.progress DESC, v.stamp COLLATE "C" DESC, v.created_at DESC),
ours AS (
  SELECT k.*, count(*) OVER () AS total FROM known k WHERE k.is_ours OR k.is_of_run
   ORDER BY k.is_of_run DESC, k.id LIMIT 100),
read AS MATERIALIZED (
  SELECT o.*, (SELECT c.data -> 'iterations' -> o.n )sql" +
                            row_at(table, "o.place", "o.leaf") + R"sql() AS iteration
    FROM ours o),
sized AS (
  SELECT r.*, sum(CASE WHEN pg_column_size(r.iteration) <= $6 THEN pg_column_size(r.iteration) END)
                OVER (ORDER BY r.is_of_run DESC, r.id) AS size
    FROM read r)
SELECT r.id, CASE WHEN pg_column_size(r.iteration) <= $6 AND r.size <= $6 THEN r.iteration::text END,
       )sql" + actor + R"sql(, r.total
  FROM sized r ORDER BY r.is_of_run DESC, r.id)sql";
    return statements.try_emplace(sql, sql).first->second;
}

// From the known runs, which a client cannot forge.
std::vector<std::string> iterations_of_runs(const SuspectMission& mission) {
    static pg::Statement select_ids(R"sql(
SELECT DISTINCT iteration_id FROM mana_ai.runs
 WHERE user_id = $1 AND mission_id = $2 AND iteration_id IS NOT NULL)sql");
    std::vector<std::string> ids;
    for (pg::Row& row :
         select_ids
             .execute({std::string_view(mission.user_id), std::string_view(mission.mission_id)})
             .rows)
        ids.push_back(row.take_text(0));
    return ids;
}

// As the table's owner and under the policy for this user; the effects of its code are rolled back.
template <class Read>
void read_as_owner(const SuspectMission& mission, const SyncTable& table, TablePatience& patience,
                   Read&& read) {
    std::optional<pg::PgError> error;
    auto in_role = [&] {
        const pg::RoleScope as_owner(table.owner);
        pg::guarded([&mission] {
            pg::set_for_scope("app.current_user_id", mission.user_id.c_str());
            pg::set_for_scope("app.current_user_space_ids", "");
        });
        read();
        return false;
    };
    const auto watched = pg::watch_call(pg::settings::sync_table_timeout_us(),
                                        [&] { error = pg::in_subtransaction(in_role); });
    patience.note(mission.user_id, watched.took_us, pg::monotonic_now());
    if (watched.error)
        error = watched.error;
    if (error)
        throw watched.timed_out ? pg::make_timeout_error() : pg::as_ordinary_error(*error);
}

// Sets `recent` to the rows in which progress may be found.
LostIterations lost_iterations(const SuspectMission& mission, const SyncTable& table,
                               const std::vector<std::string>& passed_over,
                               const std::vector<std::string>& of_runs, int64_t room,
                               TablePatience& patience, std::vector<std::string>& recent) {
    pg::Statement& select_lost = lost_statement(table);
    LostIterations lost;
    read_as_owner(mission, table, patience, [&] {
        NewestRows newest = newest_rows(table, mission.user_id, mission.mission_id);
        auto rows =
            select_lost
                .execute({std::string_view(mission.user_id), std::string_view(mission.mission_id),
                          &newest.places, &passed_over, &of_runs, room})
                .rows;
        for (pg::Row& row : rows) {
            lost.left = row.number(3);
            if (!row.is_null(1))
                lost.found.push_back({row.text(0), row.take_text(1), row.optional_text(2)});
        }
        lost.left -= static_cast<int64_t>(lost.found.size());
        recent = std::move(newest.recent);
    });
    return lost;
}

void remember_restore(const SuspectMission& mission, const std::string& iteration_id,
                      core::Instant now) {
    static pg::Statement remember(R"sql(
INSERT INTO mana_ai.restored_iterations AS r (user_id, mission_id, iteration_id, restored_at)
VALUES ($1, $2, $3, $4)
    ON CONFLICT (user_id, mission_id, iteration_id)
    DO UPDATE SET restores = r.restores + 1, restored_at = $4)sql");
    remember.execute({std::string_view(mission.user_id), std::string_view(mission.mission_id),
                      std::string_view(iteration_id), pg::Timestamp{now}});
}

// Further losses are ignored; the first of them is on record (mission_problems). Lost are all that
// are not in `held`, and those in `set_back`.
void give_up(const SuspectMission& mission, const std::vector<std::string>& held,
             const std::vector<std::string>& set_back, core::Instant now) {
    static pg::Statement note(R"sql(
UPDATE mana_ai.restored_iterations SET given_up_at = $4, restored_at = $4
 WHERE user_id = $1 AND mission_id = $2 AND iteration_id <> '' AND restores >= $5
   AND given_up_at IS NULL
   AND (iteration_id NOT IN (SELECT unnest($3::text[])) OR iteration_id IN (SELECT unnest($6::text[])))
RETURNING iteration_id)sql");
    const auto rows =
        note.execute({std::string_view(mission.user_id), std::string_view(mission.mission_id),
                      &held, pg::Timestamp{now}, kMostRestores, &set_back})
            .rows;
    if (rows.empty())
        return;
    const std::string others =
        rows.size() == 1 ? "" : " and " + std::to_string(rows.size() - 1) + " others";
    pg::log_warning("iteration " + pg::printable(rows.front().text(0)) + others + " of mission " +
                    pg::printable(mission.mission_id) + " of user " +
                    pg::printable(mission.user_id) +
                    " will not be restored any more: devices have overwritten it " +
                    std::to_string(kMostRestores + 1) + " times");
}

core::Instant pause_after(int64_t times, core::Instant first) {
    return first << 2 * std::clamp<int64_t>(times - 1, 0, 10);
}

struct History {
    std::vector<std::string> passed_over;  // given up, or not to be put back yet
    std::optional<core::Instant> again;    // when the first of the latter may be
};

core::Instant next_restore_at(const pg::Row& row, size_t restores, size_t restored_at) {
    return row.optional_instant(restored_at).value_or(0) +
           pause_after(row.number(restores), kFirstPause);
}

// Iterations that were put back before and are lost again.
History history_of(const SuspectMission& mission, const Newest& newest, core::Instant now) {
    give_up(mission, newest.ids, {}, now);
    static pg::Statement select_history(R"sql(
SELECT iteration_id, restores, restored_at FROM mana_ai.restored_iterations
 WHERE user_id = $1 AND mission_id = $2 AND iteration_id <> ''
   AND iteration_id NOT IN (SELECT unnest($3::text[])))sql");
    History history;
    for (const pg::Row& row : select_history
                                  .execute({std::string_view(mission.user_id),
                                            std::string_view(mission.mission_id), &newest.ids})
                                  .rows) {
        if (row.number(1) < kMostRestores) {
            const core::Instant due = next_restore_at(row, 1, 2);
            if (due <= now)
                continue;
            history.again = std::min(history.again.value_or(due), due);
        }
        history.passed_over.push_back(row.text(0));
    }
    return history;
}

// Those that devices may have set back, without those that were restored a moment ago.
std::vector<UnfinishedIteration> unfinished_of(const SuspectMission& mission, History& history,
                                               core::Instant now) {
    static pg::Statement select_restored(R"sql(
SELECT iteration_id, restores, restored_at FROM mana_ai.restored_iterations
 WHERE user_id = $1 AND mission_id = $2 AND iteration_id <> '')sql");
    std::vector<UnfinishedIteration> unfinished =
        unfinished_iterations(mission.user_id, mission.mission_id);
    for (const pg::Row& row :
         select_restored
             .execute({std::string_view(mission.user_id), std::string_view(mission.mission_id)})
             .rows) {
        const auto found = std::find_if(
            unfinished.begin(), unfinished.end(),
            [&row](const UnfinishedIteration& iteration) { return iteration.id == row.text(0); });
        if (found == unfinished.end())
            continue;
        found->is_hopeless = row.number(1) >= kMostRestores;
        const core::Instant due = next_restore_at(row, 1, 2);
        if (found->is_hopeless || due <= now)
            continue;
        history.again = std::min(history.again.value_or(due), due);
        unfinished.erase(found);
    }
    return unfinished;
}

// If only this cannot be read in time, lost iterations are put back nevertheless.
LostProgress lost_progress(const SuspectMission& mission, const SyncTable& table, History& history,
                           const std::vector<std::string>& recent,
                           const std::vector<std::string>& of_runs, int64_t room, bool may_fail,
                           core::Instant now, TablePatience& patience) {
    const std::vector<UnfinishedIteration> unfinished = unfinished_of(mission, history, now);
    LostProgress lost;
    try {
        read_as_owner(mission, table, patience, [&] {
            lost = find_lost_progress(table, mission.user_id, mission.mission_id, recent,
                                      unfinished, of_runs, room);
        });
    } catch (const pg::PgError&) {
        if (!may_fail)
            throw;
        const core::Instant again = now + kFirstFailurePause;
        history.again = std::min(history.again.value_or(again), again);
        return {};
    }
    return lost;
}

// Each row holds all iterations: a client must not cause many of them with small ones of its own.
constexpr int64_t kMostRowsPerHour = 20;

bool has_been_restored_often(const SuspectMission& mission, core::Instant now) {
    static pg::Statement count_rows(R"sql(
SELECT count(DISTINCT restored_at) FROM mana_ai.restored_iterations
 WHERE user_id = $1 AND mission_id = $2 AND iteration_id <> '' AND restored_at > $3)sql");
    return count_rows
               .execute({std::string_view(mission.user_id), std::string_view(mission.mission_id),
                         pg::Timestamp{now - core::kMicrosPerHour}})
               .rows.front()
               .number(0) >= kMostRowsPerHour;
}

// The lost ones each at its place by its start; the others keep their order. `changes` has fields
// to replace, by the ids of iterations.
std::string merged_iterations(const SuspectMission& mission, const std::string& lost,
                              const std::string& changes) {
    static pg::Statement merge(R"sql(
WITH held AS MATERIALIZED (
  SELECT CASE WHEN (SELECT $4::jsonb) ? (e.iteration ->> 'id') AND e.iteration ->> 'source' = 'server'
              THEN e.iteration || ((SELECT $4::jsonb) -> (e.iteration ->> 'id')) ELSE e.iteration END AS iteration,
         e.place
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
                  std::string_view(lost), std::string_view(changes)})
        .rows.front()
        .take_text(0);
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

// A change of a mission ends its wait, since it may have fixed the cause. This change has not,
// since it contains nothing new.
void restore_wait(const SuspectMission& mission, const Newest& newest) {
    if (newest.is_running)
        return;
    static pg::Statement keep(R"sql(
UPDATE mana_ai.mission_schedule SET not_before = $3, wake_at = $4
 WHERE user_id = $1 AND mission_id = $2
   AND (not_before IS DISTINCT FROM $3 OR wake_at IS DISTINCT FROM $4))sql");
    keep.execute({std::string_view(mission.user_id), std::string_view(mission.mission_id),
                  pg::time_or_null(newest.not_before), pg::time_or_null(newest.wake_at)});
}

}  // namespace

std::vector<SuspectMission> missions_to_check(core::Instant now, int limit) {
    static pg::Statement select_suspects(R"sql(
SELECT user_id, mission_id FROM mana_ai.mission_schedule
 WHERE check_iterations_at <= $1 ORDER BY check_iterations_at LIMIT $2
   FOR UPDATE SKIP LOCKED)sql");
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

void check_later(const SuspectMission& mission, std::optional<core::Instant> at) {
    static pg::Statement put_off(R"sql(
UPDATE mana_ai.mission_schedule s SET check_iterations_at = $3
  FROM (SELECT user_id, mission_id FROM mana_ai.mission_schedule
         WHERE user_id = $1 AND mission_id = $2 AND check_iterations_at IS NOT NULL
           FOR UPDATE SKIP LOCKED) k
 WHERE s.user_id = k.user_id AND s.mission_id = k.mission_id)sql");
    put_off.execute({std::string_view(mission.user_id), std::string_view(mission.mission_id),
                     pg::time_or_null(at)});
}

std::optional<core::Instant> note_failed_check(const SuspectMission& mission, core::Instant now) {
    static pg::Statement note(R"sql(
INSERT INTO mana_ai.restored_iterations AS r (user_id, mission_id, iteration_id, restored_at)
VALUES ($1, $2, '', $3)
    ON CONFLICT (user_id, mission_id, iteration_id)
    DO UPDATE SET restores = r.restores + 1, restored_at = $3,
                  given_up_at = CASE WHEN r.restores + 1 >= $4
                                     THEN coalesce(r.given_up_at, $3) END
RETURNING r.restores)sql");
    const int64_t failures =
        note.execute({std::string_view(mission.user_id), std::string_view(mission.mission_id),
                      pg::Timestamp{now}, kMostFailures})
            .rows.front()
            .number(0);
    if (failures >= kMostFailures)
        return std::nullopt;
    return now + pause_after(failures, kFirstFailurePause);
}

void restore_iterations(const SuspectMission& mission, core::Instant now, TablePatience& patience) {
    const auto newest = lock_mission(mission, now);
    if (!newest) {
        check_later(mission, std::nullopt);
        return;
    }
    // A mark may stay for long: the older it is, the later the next check.
    if (newest->marked_at) {
        check_later(mission, now + std::clamp(now - *newest->marked_at, core::kMicrosPerSecond,
                                              kLongestMarkPause));
        return;
    }
    if (may_snapshots_lack_rows()) {
        check_later(mission, now + kFoldPause);
        return;
    }
    // A row with such a clock would win against all devices for days, or lose.
    if (newest->clock > now + kMaxClockLead) {
        check_later(mission, newest->clock - kMaxClockLead);
        return;
    }
    if (has_been_restored_often(mission, now)) {
        check_later(mission, now + 10 * core::kMicrosPerMinute);
        return;
    }
    const SyncTable table = attached_sync_table();
    const std::vector<std::string> of_runs = iterations_of_runs(mission);
    History history = history_of(mission, *newest, now);
    history.passed_over.insert(history.passed_over.end(), newest->ids.begin(), newest->ids.end());
    int64_t room = std::max<int64_t>(pg::settings::max_record_size() - newest->size, 0);
    std::vector<std::string> recent;
    const LostIterations lost =
        lost_iterations(mission, table, history.passed_over, of_runs, room, patience, recent);
    std::string put_back = "[";
    std::optional<std::string> actor;
    for (const LostIteration& iteration : lost.found) {
        put_back += (put_back.size() > 1 ? "," : "") + iteration.iteration;
        room -= static_cast<int64_t>(iteration.iteration.size());
        if (iteration.actor)
            actor = iteration.actor;
        remember_restore(mission, iteration.id, now);
    }
    put_back += "]";
    const LostProgress progress =
        lost_progress(mission, table, history, recent, of_runs, std::max<int64_t>(room, 0),
                      !lost.found.empty(), now, patience);
    for (const std::string& id : progress.ids)
        remember_restore(mission, id, now);
    if (!progress.hopeless.empty())
        give_up(mission, newest->ids, progress.hopeless, now);
    const int64_t left = lost.left + progress.left;
    if (!lost.found.empty() || !progress.ids.empty()) {
        const std::string written_at = core::to_iso_millis(instant_of_writing(now, newest->clock));
        const std::string stamps = core::dump_json({{"iterations", written_at}});
        const std::string data = merged_iterations(mission, put_back, progress.fields);
        insert_change({mission.user_id, mission.mission_id, newest->space_id, data, stamps, actor},
                      "a restored plan", patience);
        MANA_AI_FAILPOINT("restore.inserted");
        check_taken_over(mission, newest->version);
        if (may_snapshots_lack_rows())
            throw pg::make_error(ERRCODE_LOCK_NOT_AVAILABLE, "the log was attached meanwhile");
        // What a device has done ends the wait, as if its row had won.
        if (progress.ids.empty())
            restore_wait(mission, *newest);
        pg::metrics::count_at_commit(core::Metric::IterationsRestored, {},
                                     static_cast<int64_t>(lost.found.size() + progress.ids.size()));
        if (lost.left > 0)
            history.again = now + core::kMicrosPerSecond;
    }
    if (left > 0 && lost.found.empty()) {
        pg::log_warning(std::to_string(left) + " lost iterations of mission " +
                        pg::printable(mission.mission_id) + " of user " +
                        pg::printable(mission.user_id) +
                        " are not restored: the record would be larger than "
                        "mana_ai.max_record_size");
    }
    static pg::Statement forget_failures(R"sql(
DELETE FROM mana_ai.restored_iterations
 WHERE user_id = $1 AND mission_id = $2 AND iteration_id = '')sql");
    forget_failures.execute(
        {std::string_view(mission.user_id), std::string_view(mission.mission_id)});
    check_later(mission, history.again);
}

}  // namespace mana_ai
