#include "mana_ai/extension/run/write_back.hpp"

#include <algorithm>
#include <map>

#include "mana_ai/core/planner/gates.hpp"
#include "mana_ai/core/record/failure_notice.hpp"
#include "mana_ai/core/record/iteration.hpp"
#include "mana_ai/core/text/json.hpp"
#include "mana_ai/core/time/cadence.hpp"
#include "mana_ai/core/time/instant.hpp"
#include "mana_ai/extension/lease/research_jobs.hpp"
#include "mana_ai/extension/lease/run_record.hpp"
#include "mana_ai/extension/run/failure_notices.hpp"
#include "mana_ai/extension/run/input_watches.hpp"
#include "mana_ai/extension/run/planning_record.hpp"
#include "mana_ai/extension/run/read_set.hpp"
#include "mana_ai/extension/sync/dirty_records.hpp"
#include "mana_ai/extension/sync/fold_batches.hpp"
#include "mana_ai/extension/sync/sync_table.hpp"
#include "mana_ai/pg/call_watch.hpp"
#include "mana_ai/pg/failpoint.hpp"
#include "mana_ai/pg/guard.hpp"
#include "mana_ai/pg/log.hpp"
#include "mana_ai/pg/metrics.hpp"
#include "mana_ai/pg/random.hpp"
#include "mana_ai/pg/settings.hpp"
#include "mana_ai/pg/spi.hpp"
#include "mana_ai/pg/time.hpp"
#include "mana_ai/pg/transaction.hpp"

extern "C" {
#include "catalog/pg_type_d.h"
}

namespace mana_ai {

namespace {

constexpr core::Instant kMicrosPerMilli = 1000;
constexpr int64_t kNoVersion = -1;  // of a snapshot

struct NewestRecord {
    bool active = false;  // and can be written to
    std::optional<std::string> space_id;
    core::Json cadence;
    core::Instant newest_clock = 0;  // of the fields to be written
    core::Instant browser_run_until = 0;
    int64_t version = 0;
    std::string clocks;         // of what prompts are made of
    bool is_completed = false;  // although others may lack rows, see complete_record()
};

// Locks the snapshot, like the trigger before it locks the schedule: all use this order. A record
// that has not changed since the claim is not read again.
std::optional<NewestRecord> lock_newest_record(const ClaimedMission& claimed) {
    static pg::Statement lock_snapshot(R"sql(
SELECT m.fits AND record ->> 'state' IS NOT DISTINCT FROM 'active'
         AND (m.space_id IS NULL OR mana_ai.member_hold(m.user_id, m.mission_id, m.space_id, m.record, m.clocks) IS NULL), space_id,
       CASE WHEN m.fits AND version <> $4 THEN mana_ai.planning_record(record, clocks) END, version
  FROM (SELECT *, mana_ai.raw_size(record, clocks) <= $3 AS fits FROM mana_ai.mission_snapshots
         WHERE user_id = $1 AND mission_id = $2 FOR UPDATE NOWAIT) m)sql");
    auto rows = lock_snapshot
                    .execute({std::string_view(claimed.user_id),
                              std::string_view(claimed.mission_id), pg::settings::max_record_size(),
                              claimed.newest_clock ? claimed.mission_version : kNoVersion})
                    .rows;
    if (rows.empty())
        return std::nullopt;
    const pg::Row& row = rows.front();
    NewestRecord newest;
    newest.active = row.number(0) != 0;
    newest.space_id = row.optional_text(1);
    newest.version = row.number(3);
    // A record that has become too large or unreadable is not written to.
    if (auto read = row.is_null(2) ? std::nullopt : read_planning_mission(row.text(2))) {
        newest.cadence = std::move(read->mission.cadence);
        newest.newest_clock = read->newest_clock;
        newest.browser_run_until = read->browser_run_until;
        newest.clocks = std::move(read->clocks);
    } else if (claimed.newest_clock && newest.version == claimed.mission_version) {
        newest.cadence = claimed.mission.cadence;
        newest.newest_clock = *claimed.newest_clock;
        newest.browser_run_until = claimed.browser_run_until;
        newest.clocks = claimed.mission_clocks;
    } else {
        newest.active = false;
    }
    newest.active = newest.active && newest.newest_clock <= pg::now() + kMaxClockLead;
    newest.newest_clock = std::max<core::Instant>(newest.newest_clock, 0);
    return newest;
}

// Rounded up, as records hold milliseconds.
core::Instant whole_millis(core::Instant instant) {
    return (instant + kMicrosPerMilli - 1) / kMicrosPerMilli * kMicrosPerMilli;
}

}  // namespace

core::Instant instant_of_writing(core::Instant now, core::Instant newest_clock) {
    return whole_millis(std::max(now, newest_clock + 1));
}

namespace {

struct NextRun {
    bool is_written = true;  // false: it stays unchanged
    std::optional<std::string> at;
};

// The fields as text, since an object would be one more copy of a possibly long list. `iterations`
// is an SQL expression for the list that the iteration is appended to.
std::string sql_of_fields(const std::string& iterations) {
    return R"sql(SELECT '{"iterations": ' || ()sql" + iterations +
           R"sql( || jsonb_build_array($3::jsonb))::text
    || CASE WHEN $6 THEN ', "nextRunAt": ' || coalesce(to_json($4::text)::text, 'null') ELSE '' END
    || CASE WHEN $5::text IS NULL THEN '' ELSE ', "updatedAt": ' || to_json($5::text)::text END
    || '}')sql";
}

// For a mission that has not changed since the run began: nothing can be lost.
pg::Statement& fields_of_unchanged() {
    static pg::Statement build(sql_of_fields(R"sql(
CASE WHEN jsonb_typeof(record -> 'iterations') = 'array'
     THEN record -> 'iterations' ELSE '[]'::jsonb END)sql") +
                               R"sql(
  FROM mana_ai.mission_snapshots WHERE user_id = $1 AND mission_id = $2)sql");
    return build;
}

// Iterations that the mission had when the run began and has lost are put back before the new one.
pg::Statement& fields_of_changed() {
    static pg::Statement build(R"sql(
WITH newest AS MATERIALIZED (
  SELECT CASE WHEN jsonb_typeof(record -> 'iterations') = 'array'
              THEN record -> 'iterations' ELSE '[]'::jsonb END AS iterations
    FROM mana_ai.mission_snapshots WHERE user_id = $1 AND mission_id = $2),
before AS MATERIALIZED (
  SELECT iterations FROM mana_ai.iterations_at_claim WHERE user_id = $1 AND run_id = $7::uuid)
)sql" + sql_of_fields(R"sql(
(SELECT iterations FROM newest)
        || coalesce((SELECT jsonb_agg(e.iteration ORDER BY e.place)
                       FROM before, jsonb_array_elements(before.iterations)
                            WITH ORDINALITY AS e(iteration, place)
                      WHERE e.iteration ->> 'id' NOT IN
                            (SELECT n.iteration ->> 'id'
                               FROM newest, jsonb_array_elements(newest.iterations) AS n(iteration)
                              WHERE n.iteration ->> 'id' IS NOT NULL)),
                    '[]'::jsonb))sql"));
    return build;
}

std::string changed_fields(const ClaimedMission& claimed, const NewestRecord& newest,
                           const std::string& iteration, const NextRun& next_run,
                           const std::optional<std::string>& updated_at) {
    const std::string_view user(claimed.user_id);
    const std::string_view mission(claimed.mission_id);
    const pg::Param at = pg::text_or_null(next_run.at);
    const pg::Param stamp = pg::text_or_null(updated_at);
    if (newest.version == claimed.mission_version)
        return fields_of_unchanged()
            .execute({user, mission, std::string_view(iteration), at, stamp, next_run.is_written})
            .rows.front()
            .take_text(0);
    return fields_of_changed()
        .execute({user, mission, std::string_view(iteration), at, stamp, next_run.is_written,
                  std::string_view(claimed.run_id)})
        .rows.front()
        .take_text(0);
}

// The time of the write, and whether the record has an updatedAt: clients of the newer shape keep
// none.
struct Writing {
    std::string at;
    std::optional<std::string> updated_at;

    core::Json stamps(std::initializer_list<const char*> fields) const {
        core::Json stamps = core::Json::object();
        for (const char* field : fields)
            stamps[field] = at;
        if (updated_at)
            stamps["updatedAt"] = at;
        return stamps;
    }
};

Writing begin_writing(core::Instant now, const NewestRecord& newest) {
    Writing writing{core::to_iso_millis(instant_of_writing(now, newest.newest_clock)), {}};
    if (attached_sync_table().stamps_column == "field_timestamps")
        writing.updated_at = writing.at;
    return writing;
}

// Planned once per shape of the table; renaming a column makes a new shape.
pg::Statement& insert_statement(const SyncTable& table) {
    static std::map<std::string, pg::Statement> statements;
    std::string columns = "app_id, table_name, record_id, user_id, op, client_id, data, ";
    std::string values = "'ai', 'aiMissions', $1, $2, 'update', 'mana-ai-runner', $3::jsonb, ";
    columns += table.stamps_column;
    values += "$4::jsonb";
    // An unused parameter would have no type, so all of them are always used.
    values += table.has_space_id ? ", $5" : "";
    columns += table.has_space_id ? ", space_id" : "";
    values += table.has_actor ? ", $6::jsonb" : "";
    columns += table.has_actor ? ", actor" : "";
    if (table.has_schema_version) {
        columns += ", schema_version";
        values += ", 1";
    }
    if (table.has_origin) {
        columns += ", origin";
        values += ", 'agent'";
    }
    std::string sql = "INSERT INTO " + table.qualified_name + " (" + columns + ") SELECT " +
                      values + " FROM (SELECT $5::text, $6::text) AS optional_values";
    return statements.try_emplace(sql, sql).first->second;
}

void insert_plan(const ClaimedMission& claimed, const NewestRecord& newest, const std::string& data,
                 const std::string& stamps, const std::string& actor, TablePatience& patience) {
    insert_change({claimed.user_id, claimed.mission_id, newest.space_id, data, stamps, actor},
                  "the plan of run " + claimed.run_id, patience);
}

}  // namespace

// Triggers, policies and defaults of that table are its owner's code: they run with the owner's
// privileges, under the policy for this user, and for a limited time. Deferred triggers would run
// at the commit, as the extension's owner, which PostgreSQL refuses: they are made to run with the
// insert.
void insert_change(const MissionChange& change, const std::string& what, TablePatience& patience) {
    const SyncTable table = attached_sync_table();
    pg::Statement& insert = insert_statement(table);
    static pg::Statement defer_nothing("SET CONSTRAINTS ALL IMMEDIATE");
    const auto watched = pg::watch_call(pg::settings::sync_table_timeout_us(), [&] {
        const pg::RoleScope as_owner(table.owner);
        pg::guarded([&change] {
            pg::set_for_scope("app.current_user_id", change.user_id.c_str());
            pg::plan_as_usual_in_scope();
        });
        defer_nothing.execute();
        insert.execute({std::string_view(change.mission_id), std::string_view(change.user_id),
                        std::string_view(change.data), std::string_view(change.stamps),
                        pg::text_or_null(change.space_id), pg::text_or_null(change.actor)});
    });
    patience.note(change.user_id, watched.took_us, pg::monotonic_now());
    if (!watched.error)
        return;
    if (!watched.timed_out)
        throw pg::as_ordinary_error(*watched.error);
    pg::log_warning(what + " of mission " + pg::printable(change.mission_id) +
                    " was not written within mana_ai.sync_table_timeout");
    throw pg::make_timeout_error();
}

namespace {

// A snapshot that waits for repair lacks rows that the user has written, so it is not the newest
// record. Like mana_ai.waits_for_repair(), whose body would be parsed and planned again in each
// call.
bool waits_for_repair(const ClaimedMission& claimed) {
    static pg::Statement find_mark(R"sql(
SELECT 1
 WHERE EXISTS (SELECT FROM mana_ai.dirty_records d
                WHERE d.user_id = $1 AND d.table_name = 'aiMissions' AND d.record_id = $2)
    OR EXISTS (SELECT FROM mana_ai.dirty_records d WHERE d.user_id = $1 AND d.table_name = '')
    OR EXISTS (SELECT FROM mana_ai.oversized_records o
                WHERE o.user_id = $1 AND o.table_name = 'aiMissions' AND o.record_id = $2))sql");
    return !find_mark
                .execute({std::string_view(claimed.user_id), std::string_view(claimed.mission_id)})
                .rows.empty();
}

void refuse_if_dirty(const ClaimedMission& claimed) {
    if (waits_for_repair(claimed))
        throw pg::make_error(ERRCODE_LOCK_NOT_AVAILABLE,
                             "the mission's snapshot waits for its repair");
}

// While the log is folded in batches, snapshots of an earlier time may lack what the user has
// written since: a list of iterations made from one would undo that. True: this one now has all
// rows.
bool complete_record(const ClaimedMission& claimed) {
    if (!may_snapshots_lack_rows())
        return false;
    if (replay_one_record(claimed.user_id, "aiMissions", claimed.mission_id) != nullptr)
        throw pg::make_error(ERRCODE_LOCK_NOT_AVAILABLE,
                             "the mission's snapshot waits for the fold of the log");
    return true;
}

// Our insert has waited for detach() and attach() to commit. No other one can follow before we
// do.
void refuse_if_log_was_changed(const NewestRecord& before) {
    if (!before.is_completed && may_snapshots_lack_rows())
        throw pg::make_error(ERRCODE_LOCK_NOT_AVAILABLE, "the log was attached meanwhile");
}

// The written row must have come back through the trigger. Otherwise the mission would stay due and
// be planned, and paid for, again and again.
void check_taken_over(const ClaimedMission& claimed, const NewestRecord& before,
                      const std::string& written_at) {
    refuse_if_log_was_changed(before);
    static pg::Statement find_own_write(R"sql(
SELECT 1 FROM mana_ai.mission_snapshots
 WHERE user_id = $1 AND mission_id = $2 AND version > $3
   AND mana_ai.newest_clock(record, clocks, ARRAY['iterations', 'nextRunAt']) = $4::timestamptz)sql");
    if (find_own_write
            .execute({std::string_view(claimed.user_id), std::string_view(claimed.mission_id),
                      before.version, std::string_view(written_at)})
            .rows.empty())
        throw pg::make_error(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                             "the written plan was not folded into the mission's snapshot", {},
                             "Is the trigger of mana_ai.attach() disabled?");
}

}  // namespace

namespace {

// The first step of both kinds of writing. Nullopt: the mission must no longer be written, and the
// run has been ended as discarded.
std::optional<NewestRecord> take_newest_record(const ClaimedMission& claimed, core::Instant now,
                                               RunResult& result) {
    const bool is_completed = complete_record(claimed);
    auto newest = lock_newest_record(claimed);
    const bool ours = hold_lease(claimed);
    if (ours && newest && newest->active) {
        refuse_if_dirty(claimed);
        newest->is_completed = is_completed;
        return newest;
    }
    result.outcome = RunOutcome::Discarded;
    result.iteration_id.clear();
    finish_run(claimed, result, now);
    if (ours)
        release_lease(claimed);
    return std::nullopt;
}

// For a run that found the mission unchanged. Nullopt also: the mission has changed since then, and
// is checked again at once.
std::optional<NewestRecord> take_unchanged_record(const ClaimedMission& claimed, core::Instant now,
                                                  RunResult& result) {
    result.decision = core::name(core::GateDecision::SkippedUnchanged);
    auto newest = take_newest_record(claimed, now, result);
    if (!newest)
        return std::nullopt;
    result.outcome = RunOutcome::Skipped;
    if (newest->version == claimed.mission_version)
        return newest;
    hold_back(claimed, result, now, now);
    return std::nullopt;
}

// Whether a browser of the user has run the mission since the run began.
bool was_run_in_browser(const ClaimedMission& claimed, const NewestRecord& newest) {
    if (newest.version == claimed.mission_version)
        return false;
    static pg::Statement find(R"sql(
SELECT 1
  FROM mana_ai.mission_snapshots m, jsonb_array_elements(
         CASE WHEN jsonb_typeof(m.record -> 'iterations') = 'array'
              THEN m.record -> 'iterations' ELSE '[]' END) AS e(iteration)
 WHERE m.user_id = $1 AND m.mission_id = $2
   AND e.iteration ->> 'overallStatus' = 'approved'
   AND e.iteration ->> 'source' IS DISTINCT FROM 'server'
   AND e.iteration ->> 'startedAt' >= $3
   AND NOT EXISTS (SELECT FROM mana_ai.iterations_at_claim b, jsonb_array_elements(b.iterations) AS o(iteration)
                    WHERE b.user_id = $1 AND b.run_id = $4::uuid
                      AND o.iteration ->> 'id' = e.iteration ->> 'id')
 LIMIT 1)sql");
    // It may have begun a moment earlier, or by a clock that is a bit behind. Instants of
    // toISOString() can be compared as texts.
    const std::string since = core::to_iso_millis(claimed.started_at - 2 * core::kMicrosPerMinute);
    return !find.execute({std::string_view(claimed.user_id), std::string_view(claimed.mission_id),
                          std::string_view(since), std::string_view(claimed.run_id)})
                .rows.empty();
}

// A plan of the user's browser replaces the server's: the browser carries out its steps as it goes,
// and both would do the same work twice.
bool give_way_to_browser(const ClaimedMission& claimed, const NewestRecord& newest,
                         RunResult& result, core::Instant now) {
    const bool runs = newest.browser_run_until > now;
    if (!runs && !was_run_in_browser(claimed, newest))
        return false;
    result.outcome = RunOutcome::Discarded;
    result.decision = core::name(core::GateDecision::SkippedBrowserRun);
    if (!runs) {
        end_wake(claimed);
        forget_seen_changes(claimed, now);
    }
    hold_back(claimed, result, runs ? newest.browser_run_until : now, now);
    return true;
}

std::optional<std::string> next_run_after(const NewestRecord& newest, core::Instant now) {
    const pg::PostgresTimeZone zone(pg::settings::timezone());
    const core::NextRun next = core::next_run(newest.cadence, whole_millis(now), zone);
    if (!next.at)
        return std::nullopt;
    return core::to_iso_millis(*next.at);
}

// Ends the lease before the row with the next run is written, and says in advance what the trigger
// makes of that row, which then leaves the schedule alone: the row in the schedule, whose every
// version costs an entry in each index, is written once instead of three times. Nullopt: what the
// plan was based on stays.
void release_for_next_run(const ClaimedMission& claimed,
                          const std::optional<std::string>& next_run_at,
                          const std::optional<std::string>& basis_digest) {
    static pg::Statement release(R"sql(
UPDATE mana_ai.mission_schedule
   SET lease_owner = NULL, run_id = NULL, attempts = 0, not_before = NULL, error_kind = NULL,
       problem = NULL, held_since = NULL, told = NULL,
       due_at = least($5, woken_at), wake_at = least($5, woken_at),
       plan_basis_digest = CASE WHEN $6::text IS NULL THEN plan_basis_digest ELSE nullif($6, '') END
 WHERE user_id = $1 AND mission_id = $2 AND lease_owner = $3 AND run_id = $4::uuid)sql");
    const auto next_run = next_run_at ? core::parse_instant(*next_run_at) : std::nullopt;
    release.execute({std::string_view(claimed.user_id), std::string_view(claimed.mission_id),
                     int64_t{claimed.engine}, std::string_view(claimed.run_id),
                     pg::time_or_null(next_run), pg::text_or_null(basis_digest)});
}

// Whether the plan before this one was thrown away. By the history, since skips and failures in
// between replace the schedule's decision.
bool was_last_plan_overtaken(const ClaimedMission& claimed) {
    static pg::Statement find(R"sql(
SELECT r.decision = $3 FROM mana_ai.runs r
 WHERE r.mission_id = $2 AND r.user_id = $1 AND (r.outcome = 'planned' OR r.decision = $3)
 ORDER BY r.started_at DESC LIMIT 1)sql");
    const auto rows =
        find.execute({std::string_view(claimed.user_id), std::string_view(claimed.mission_id),
                      std::string_view(kSkippedOvertaken)})
            .rows;
    return !rows.empty() && rows.front().number(0) != 0;
}

// A manual run's plan is always written, since a caller waits for it. So is the second of two plans
// in a row: a record that changes all the time must not keep the mission without a plan.
bool is_planned_again(const ClaimedMission& claimed, const ReadSetChanges& changes) {
    return pg::settings::replan_overtaken() && !changes.changed.empty() && !claimed.manual &&
           !was_last_plan_overtaken(claimed);
}

void count_overtaken(const ReadSetChanges& changes) {
    if (!changes.changed.empty())
        pg::metrics::count_at_commit(core::Metric::PlansOvertaken, {"changed"});
    else if (changes.is_incomplete)
        pg::metrics::count_at_commit(core::Metric::PlansOvertaken, {"unknown"});
}

}  // namespace

void write_back(const ClaimedMission& claimed, const FinishedPlan& plan, RunResult& result,
                TablePatience& patience) {
    const core::Instant now = pg::now();
    // A try before this one, whose transaction failed, may have decided otherwise.
    result.decision = core::name(core::GateDecision::Ran);
    result.iteration_id.clear();
    // Before the mission is locked: the records belong to other apps, and reading them may take
    // long.
    ReadSetChanges changes = changes_of_inputs(claimed.user_id, result.events.lineage, patience);
    const auto newest = take_newest_record(claimed, now, result);
    if (!newest)
        return;
    MANA_AI_FAILPOINT("write_back.locked");
    if (give_way_to_browser(claimed, *newest, result, now))
        return;
    add_changes_of_own_records(changes, claimed,
                               {newest->version, newest->clocks, newest->space_id},
                               result.events.lineage);
    count_overtaken(changes);
    if (is_planned_again(claimed, changes)) {
        result.outcome = RunOutcome::Discarded;
        result.decision = kSkippedOvertaken;
        // The next run needs the answer as well.
        if (claimed.research_job)
            give_research_offer_back(claimed.user_id, claimed.mission_id,
                                     claimed.research_job->task_id, false);
        hold_back(claimed, result, now, now);
        return;
    }
    const Writing writing = begin_writing(now, *newest);
    const core::Agent* agent = claimed.agent ? &*claimed.agent : nullptr;
    const core::IterationInput input{claimed.iteration_id,
                                     claimed.started_at,
                                     now,
                                     plan.steps,
                                     plan.summary,
                                     pg::settings::step_status(),
                                     agent != nullptr ? &agent->policy : nullptr,
                                     result.prompt_version,
                                     std::move(changes.changed),
                                     changes.is_incomplete};
    const std::string iteration = core::dump_json(core::build_iteration(input));
    const std::string actor = core::dump_json(core::build_actor(
        agent, claimed.mission, claimed.iteration_id, plan.objective_was_decrypted));
    const core::Json stamps = writing.stamps({"iterations", "nextRunAt"});
    const auto next_run_at = next_run_after(*newest, now);
    const std::string data =
        changed_fields(claimed, *newest, iteration, {true, next_run_at}, writing.updated_at);
    end_wake(claimed);
    release_for_next_run(claimed, next_run_at, plan.basis_digest);
    insert_plan(claimed, *newest, data, core::dump_json(stamps), actor, patience);
    MANA_AI_FAILPOINT("write_back.inserted");
    check_taken_over(claimed, *newest, writing.at);

    result.outcome = RunOutcome::Planned;
    result.iteration_id = claimed.iteration_id;
    finish_run(claimed, result, now);
    note_plan_of_watching(claimed, now);
    if (claimed.research_job || claimed.research_spent || pg::settings::deep_research_enabled())
        close_research(claimed.user_id, claimed.mission_id);
    MANA_AI_FAILPOINT("write_back.finished");
}

std::string write_failure_notice(const ClaimedMission& claimed, core::NoticeCause cause,
                                 const std::string& error_kind, core::Instant now,
                                 TablePatience& patience) {
    const auto newest = lock_newest_record(claimed);
    if (!newest || !newest->active || newest->browser_run_until > now ||
        was_run_in_browser(claimed, *newest) || waits_for_repair(claimed) ||
        may_snapshots_lack_rows() ||
        !is_notice_due(claimed.user_id, claimed.mission_id, cause, now))
        return {};
    const core::FailureNotice notice = core::failure_notice(cause, error_kind);
    remember_told(claimed, cause);
    // After a restore only the record shows what was told.
    if (says_already(claimed, notice))
        return {};
    const Writing writing = begin_writing(now, *newest);
    // A mission that was claimed unread has neither an iteration id nor any text.
    const std::string iteration_id =
        claimed.iteration_id.empty() ? pg::random_uuid() : claimed.iteration_id;
    core::Mission about;
    about.id = claimed.mission_id;
    const std::string iteration = core::dump_json(
        core::build_failed_iteration(notice, iteration_id, claimed.started_at, now));
    const core::Agent* agent = claimed.agent ? &*claimed.agent : nullptr;
    const std::string actor = core::dump_json(core::build_actor(agent, about, iteration_id, true));
    const core::Json stamps = writing.stamps({"iterations"});
    // The mission stays due: a run without a plan does not move nextRunAt.
    const std::string data =
        changed_fields(claimed, *newest, iteration, {false, std::nullopt}, writing.updated_at);
    insert_plan(claimed, *newest, data, core::dump_json(stamps), actor, patience);
    MANA_AI_FAILPOINT("notice.inserted");
    check_taken_over(claimed, *newest, writing.at);
    return iteration_id;
}

void put_off_unchanged(const ClaimedMission& claimed, RunResult& result, TablePatience& patience) {
    const core::Instant now = pg::now();
    const auto newest = take_unchanged_record(claimed, now, result);
    if (!newest)
        return;
    const Writing writing = begin_writing(now, *newest);
    const auto next_run_at = next_run_after(*newest, now);
    core::Json data = {{"nextRunAt", next_run_at ? core::Json(*next_run_at) : core::Json()}};
    if (writing.updated_at)
        data["updatedAt"] = *writing.updated_at;
    const core::Json stamps = writing.stamps({"nextRunAt"});
    const core::Agent* agent = claimed.agent ? &*claimed.agent : nullptr;
    const core::Json actor = core::build_actor(agent, claimed.mission, "", true);
    release_for_next_run(claimed, next_run_at, std::nullopt);
    insert_plan(claimed, *newest, core::dump_json(data), core::dump_json(stamps),
                core::dump_json(actor), patience);
    check_taken_over(claimed, *newest, writing.at);

    finish_run(claimed, result, now);
}

void end_wake_for_nothing(const ClaimedMission& claimed, RunResult& result) {
    const core::Instant now = pg::now();
    if (!take_unchanged_record(claimed, now, result))
        return;
    end_wake(claimed);
    forget_seen_changes(claimed, std::nullopt);
    finish_run(claimed, result, now);
    release_lease(claimed);
    pg::metrics::count_at_commit(core::Metric::Wakeups, {"unchanged"});
}

}  // namespace mana_ai
