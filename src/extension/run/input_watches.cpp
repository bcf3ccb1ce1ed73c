#include "mana_ai/extension/run/input_watches.hpp"

#include <algorithm>
#include <set>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include "mana_ai/core/record/mission_input.hpp"
#include "mana_ai/core/record/plan_basis.hpp"
#include "mana_ai/core/time/wake.hpp"
#include "mana_ai/extension/lease/watching.hpp"
#include "mana_ai/extension/run/planning_record.hpp"
#include "mana_ai/extension/sync/input_marks.hpp"
#include "mana_ai/pg/metrics.hpp"
#include "mana_ai/pg/settings.hpp"
#include "mana_ai/pg/shared_state.hpp"
#include "mana_ai/pg/spi.hpp"
#include "mana_ai/pg/time.hpp"
#include "mana_ai/pg/watch_filter.hpp"

namespace mana_ai {

namespace {

constexpr int64_t kMarksAtOnce = 100;
constexpr int64_t kWakesAtOnce = 20;
// Somebody has locked the mission's row, or a run holds it.
constexpr core::Instant kBusyPause = core::kMicrosPerSecond;

struct MissionName {
    std::string user_id;
    std::string mission_id;
    auto operator<=>(const MissionName&) const = default;
};

using Param = std::string_view;

uint64_t hash_of(std::string_view user_id, std::string_view table, std::string_view record) {
    return watch_hash(user_id, table, record);
}

std::optional<core::Instant> next_run_of(const MissionName& name) {
    static pg::Statement find(R"sql(
SELECT CASE WHEN jsonb_typeof(record -> 'nextRunAt') = 'string' THEN record ->> 'nextRunAt' END
  FROM mana_ai.mission_snapshots WHERE user_id = $1 AND mission_id = $2 AND record ->> 'state' = 'active')sql");
    const auto rows = find.execute({Param(name.user_id), Param(name.mission_id)}).rows;
    if (rows.empty() || rows.front().is_null(0))
        return std::nullopt;
    return core::parse_instant(rows.front().text(0));
}

// A mission that was woken and has not run is due when its record says. Of a running one the end of
// the run does that.
void take_back_wake(const MissionName& name) {
    static pg::Statement lock(R"sql(
SELECT 1 FROM mana_ai.mission_schedule
 WHERE user_id = $1 AND mission_id = $2 AND woken_at IS NOT NULL AND lease_owner IS NULL FOR UPDATE)sql");
    if (lock.execute({Param(name.user_id), Param(name.mission_id)}).rows.empty())
        return;
    static pg::Statement take_back(R"sql(
UPDATE mana_ai.mission_schedule
   SET woken_at = NULL, due_at = $3, wake_at = CASE WHEN $3 IS NOT NULL THEN greatest($3, not_before) END
 WHERE user_id = $1 AND mission_id = $2)sql");
    take_back.execute(
        {Param(name.user_id), Param(name.mission_id), pg::time_or_null(next_run_of(name))});
}

void stop_watching(const MissionName& name) {
    static pg::Statement forget_records(
        "DELETE FROM mana_ai.watched_records WHERE user_id = $1 AND mission_id = $2");
    static pg::Statement forget(
        "DELETE FROM mana_ai.input_watches WHERE user_id = $1 AND mission_id = $2");
    forget_records.execute({Param(name.user_id), Param(name.mission_id)});
    if (forget.execute({Param(name.user_id), Param(name.mission_id)}).processed > 0)
        take_back_wake(name);
}

struct WatchingMission {
    core::Mission mission;
    core::WakeRule rule;
};

// nullopt: changes do not wake it.
std::optional<WatchingMission> watching_mission(const MissionName& name) {
    static pg::Statement find(R"sql(
SELECT mana_ai.planning_record(m.record, m.clocks),
       (SELECT o.wake_on_change FROM mana_ai.agent_options o
         WHERE o.user_id = m.user_id AND o.agent_id = m.record ->> 'agentId')
  FROM mana_ai.mission_snapshots m
 WHERE m.user_id = $1 AND m.mission_id = $2 AND mana_ai.raw_size(m.record, m.clocks) <= $3)sql");
    const auto rows =
        find.execute({Param(name.user_id), Param(name.mission_id), pg::settings::max_record_size()})
            .rows;
    if (rows.empty())
        return std::nullopt;
    auto read = read_planning_mission(rows.front().text(0));
    if (!read || read->mission.state != "active")
        return std::nullopt;
    const bool opted_in =
        rows.front().is_null(1) ? pg::settings::wake_on_change() : rows.front().number(1) != 0;
    WatchingMission found{std::move(read->mission), {}};
    const core::Json& cadence = found.mission.cadence;
    if (!core::is_on_change(cadence) && !(opted_in && core::is_recurring(cadence)))
        return std::nullopt;
    found.rule = core::wake_rule(
        cadence, {pg::settings::wake_debounce_us(), pg::settings::wake_min_interval_us()});
    return found;
}

struct WatchedRecord {
    std::string table;
    std::string id;
    auto operator<=>(const WatchedRecord&) const = default;
};

// The mission's inputs, and what they were linked to at the last plan.
std::set<WatchedRecord> records_of(const MissionName& name, const core::Mission& mission) {
    const std::vector<std::string> named = core::wake_inputs(mission.cadence);
    const auto counts = [&named](const std::string& id) {
        return named.empty() || std::find(named.begin(), named.end(), id) != named.end();
    };
    std::set<WatchedRecord> records;
    for (const core::InputReference& input : core::input_references(mission.inputs))
        if (counts(input.id))
            records.insert({input.table, input.id});
    static pg::Statement find_linked(R"sql(
SELECT l.table_name, l.record_id, i.record_id
  FROM (SELECT r.run_id FROM mana_ai.runs r
         WHERE r.mission_id = $2 AND r.user_id = $1 AND r.outcome = 'planned'
         ORDER BY r.started_at DESC LIMIT 1) p
  JOIN mana_ai.run_reads l ON l.run_id = p.run_id AND l.role = 'linked'
  JOIN mana_ai.run_reads i ON i.run_id = p.run_id AND i.ordinal = l.ordinal - 1)sql");
    for (const pg::Row& row :
         find_linked.execute({Param(name.user_id), Param(name.mission_id)}).rows)
        if (counts(row.text(2)))
            records.insert({row.text(0), row.text(1)});
    return records;
}

// The mission may have come or gone, or have other inputs or another rule. False: it does not
// watch.
bool look_at_mission(const MissionName& name) {
    const auto watching = watching_mission(name);
    if (!watching) {
        stop_watching(name);
        return false;
    }
    const std::set<WatchedRecord> records = records_of(name, watching->mission);
    std::vector<std::string> tables, ids;
    for (const WatchedRecord& record : records) {
        tables.push_back(record.table);
        ids.push_back(record.id);
        pg::watch_filter::add(hash_of(name.user_id, record.table, record.id));
    }
    pg::watch_filter::add(hash_of(name.user_id, "aiMissions", name.mission_id));
    static pg::Statement keep(R"sql(
INSERT INTO mana_ai.input_watches AS w (user_id, mission_id, debounce, min_interval, planned_at)
SELECT $1, $2, $3 * interval '1 microsecond', $4 * interval '1 microsecond',
       (SELECT max(r.finished_at) FROM mana_ai.runs r
         WHERE r.mission_id = $2 AND r.user_id = $1 AND r.outcome = 'planned')
    ON CONFLICT (user_id, mission_id) DO UPDATE
   SET debounce = excluded.debounce, min_interval = excluded.min_interval
 WHERE (w.debounce, w.min_interval) IS DISTINCT FROM (excluded.debounce, excluded.min_interval))sql");
    keep.execute({Param(name.user_id), Param(name.mission_id), watching->rule.debounce,
                  watching->rule.min_interval});
    static pg::Statement forget(R"sql(
DELETE FROM mana_ai.watched_records w
 WHERE w.user_id = $1 AND w.mission_id = $2
   AND NOT EXISTS (SELECT FROM unnest($3, $4) AS k(table_name, record_id)
                    WHERE k.table_name = w.table_name AND k.record_id = w.record_id))sql");
    forget.execute({Param(name.user_id), Param(name.mission_id), &tables, &ids});
    static pg::Statement add(R"sql(
INSERT INTO mana_ai.watched_records (user_id, mission_id, table_name, record_id)
SELECT $1, $2, k.table_name, k.record_id FROM unnest($3, $4) AS k(table_name, record_id)
    ON CONFLICT DO NOTHING)sql");
    add.execute({Param(name.user_id), Param(name.mission_id), &tables, &ids});
    return true;
}

// Notes that inputs of the mission have changed.
void note_change(const MissionName& name, core::Instant now) {
    static pg::Statement find(R"sql(
SELECT (extract(epoch FROM debounce) * 1000000)::bigint, (extract(epoch FROM min_interval) * 1000000)::bigint,
       planned_at, changed_at
  FROM mana_ai.input_watches WHERE user_id = $1 AND mission_id = $2 FOR UPDATE)sql");
    static pg::Statement note(R"sql(
UPDATE mana_ai.input_watches SET changed_at = $3, last_changed_at = $4, wake_at = $5
 WHERE user_id = $1 AND mission_id = $2)sql");
    const auto rows = find.execute({Param(name.user_id), Param(name.mission_id)}).rows;
    if (rows.empty())
        return;
    const pg::Row& row = rows.front();
    const core::InputChanges changes{row.optional_instant(3).value_or(now), now,
                                     row.optional_instant(2)};
    const core::Instant at = core::wake_at({row.number(0), row.number(1)}, changes);
    note.execute({Param(name.user_id), Param(name.mission_id), pg::Timestamp{changes.first},
                  pg::Timestamp{changes.last}, pg::Timestamp{at}});
}

// Also those of missions that do not watch any more.
std::vector<core::Instant> wakes_of_user(const std::string& user_id, core::Instant now) {
    static pg::Statement find(R"sql(
SELECT t.at FROM mana_ai.input_watches w, unnest(w.woken) AS t(at)
 WHERE w.user_id = $1 AND t.at > $2::timestamptz - interval '1 hour'
UNION
SELECT r.woken_at FROM mana_ai.runs r
 WHERE r.user_id = $1 AND r.started_at > $2::timestamptz - interval '1 hour'
   AND r.woken_at > $2::timestamptz - interval '1 hour'
 ORDER BY 1)sql");
    std::vector<core::Instant> wakes;
    for (const pg::Row& row : find.execute({Param(user_id), pg::Timestamp{now}}).rows)
        wakes.push_back(row.optional_instant(0).value_or(0));
    return wakes;
}

void put_off(const MissionName& name, core::Instant until) {
    static pg::Statement put_off(
        "UPDATE mana_ai.input_watches SET wake_at = $3 WHERE user_id = $1 AND mission_id = $2");
    put_off.execute({Param(name.user_id), Param(name.mission_id), pg::Timestamp{until}});
}

void wake(const MissionName& name, core::Instant now) {
    static pg::Statement lock(R"sql(
SELECT 1 FROM mana_ai.mission_schedule
 WHERE user_id = $1 AND mission_id = $2 AND lease_owner IS NULL FOR UPDATE SKIP LOCKED)sql");
    if (lock.execute({Param(name.user_id), Param(name.mission_id)}).rows.empty()) {
        put_off(name, now + kBusyPause);
        return;
    }
    if (!look_at_mission(name))
        return;
    const core::Instant allowed_at =
        core::after_limit(wakes_of_user(name.user_id, now), pg::settings::wakeups_per_user(), now);
    if (allowed_at > now) {
        put_off(name, allowed_at);
        pg::metrics::count_at_commit(core::Metric::Wakeups, {"limited"});
        return;
    }
    static pg::Statement make_due(R"sql(
UPDATE mana_ai.mission_schedule
   SET woken_at = $3, due_at = least(due_at, $3), wake_at = greatest(least(due_at, $3), not_before)
 WHERE user_id = $1 AND mission_id = $2)sql");
    make_due.execute({Param(name.user_id), Param(name.mission_id), pg::Timestamp{now}});
    static pg::Statement note(R"sql(
UPDATE mana_ai.input_watches w
   SET wake_at = NULL,
       woken = ARRAY(SELECT t.at FROM unnest(w.woken) AS t(at) WHERE t.at > $3::timestamptz - interval '1 hour') || $3::timestamptz
 WHERE user_id = $1 AND mission_id = $2)sql");
    note.execute({Param(name.user_id), Param(name.mission_id), pg::Timestamp{now}});
    pg::metrics::count_at_commit(core::Metric::Wakeups, {"change"});
}

void note_changes(const std::set<std::tuple<std::string, std::string, std::string>>& records,
                  core::Instant now) {
    static pg::Statement find(R"sql(
SELECT mission_id FROM mana_ai.watched_records
 WHERE user_id = $1 AND table_name = $2 AND record_id = $3)sql");
    // A transaction has changed very many records of the user.
    static pg::Statement find_all(
        "SELECT mission_id FROM mana_ai.input_watches WHERE user_id = $1");
    std::set<MissionName> missions;
    for (const auto& [user, table, id] : records) {
        auto rows = table.empty() ? find_all.execute({Param(user)}).rows
                                  : find.execute({Param(user), Param(table), Param(id)}).rows;
        for (pg::Row& row : rows)
            missions.insert({user, row.take_text(0)});
    }
    for (const MissionName& mission : missions)
        note_change(mission, now);
}

}  // namespace

void load_watch_filter() {
    if (pg::watch_filter::is_complete())
        return;
    static pg::Statement find(R"sql(
SELECT user_id, table_name, record_id FROM mana_ai.watched_records
 UNION ALL
SELECT user_id, 'aiMissions', mission_id FROM mana_ai.input_watches)sql");
    for (const pg::Row& row : find.execute({}).rows)
        pg::watch_filter::add(hash_of(row.text(0), row.text(1), row.text(2)));
    pg::watch_filter::complete();
}

bool take_input_changes(core::Instant now) {
    static pg::Statement take(R"sql(
DELETE FROM mana_ai.input_changes
 WHERE id = ANY (ARRAY(SELECT c.id FROM mana_ai.input_changes c
                        ORDER BY (c.table_name = 'aiMissions') DESC LIMIT $1 FOR UPDATE SKIP LOCKED))
RETURNING user_id, table_name, record_id)sql");
    auto rows = take.execute({kMarksAtOnce}).rows;
    if (rows.empty())
        return true;
    std::set<MissionName> missions;
    std::set<std::tuple<std::string, std::string, std::string>> records;
    for (pg::Row& row : rows) {
        if (row.text(1) == "aiMissions")
            missions.insert({row.text(0), row.text(2)});
        else
            records.emplace(row.text(0), row.text(1), row.text(2));
    }
    for (const MissionName& mission : missions)
        look_at_mission(mission);
    note_changes(records, now);
    return static_cast<int64_t>(rows.size()) < kMarksAtOnce;
}

bool wake_missions(core::Instant now) {
    static pg::Statement find(R"sql(
SELECT user_id, mission_id FROM mana_ai.input_watches
 WHERE wake_at <= $1 ORDER BY wake_at LIMIT $2 FOR UPDATE SKIP LOCKED)sql");
    auto rows = find.execute({pg::Timestamp{now}, kWakesAtOnce}).rows;
    for (pg::Row& row : rows)
        wake({row.take_text(0), row.take_text(1)}, now);
    return static_cast<int64_t>(rows.size()) < kWakesAtOnce;
}

std::optional<core::Instant> next_input_wake_at() {
    static pg::Statement find(
        "SELECT wake_at FROM mana_ai.input_watches WHERE wake_at IS NOT NULL ORDER BY wake_at "
        "LIMIT 1");
    const auto rows = find.execute({}).rows;  // not read-only: it sees what was just written
    return rows.empty() ? std::nullopt : rows.front().optional_instant(0);
}

void end_wake(const ClaimedMission& claimed) {
    if (!claimed.woken_at)
        return;
    const auto next_run = next_run_of({claimed.user_id, claimed.mission_id});
    static pg::Statement end(R"sql(
UPDATE mana_ai.mission_schedule SET woken_at = NULL, due_at = $3
 WHERE user_id = $1 AND mission_id = $2)sql");
    end.execute({Param(claimed.user_id), Param(claimed.mission_id), pg::time_or_null(next_run)});
}

// Changes that were noted before the run began are in what it has read.
void forget_seen_changes(const ClaimedMission& claimed,
                         const std::optional<core::Instant>& planned_at) {
    static pg::Statement forget(R"sql(
UPDATE mana_ai.input_watches w
   SET planned_at = coalesce($3, w.planned_at), changed_at = l.at, last_changed_at = l.at,
       wake_at = CASE WHEN l.at IS NOT NULL THEN
                   greatest(l.at + w.debounce, coalesce($3, w.planned_at) + w.min_interval) END
  FROM (SELECT CASE WHEN x.last_changed_at >= $4 THEN x.last_changed_at END AS at
          FROM mana_ai.input_watches x WHERE x.user_id = $1 AND x.mission_id = $2 FOR UPDATE) l
 WHERE w.user_id = $1 AND w.mission_id = $2)sql");
    forget.execute({Param(claimed.user_id), Param(claimed.mission_id), pg::time_or_null(planned_at),
                    pg::Timestamp{claimed.started_at}});
}

void note_plan_of_watching(const ClaimedMission& claimed, core::Instant now) {
    if (may_be_watching(claimed))
        forget_seen_changes(claimed, now);
    if (!pg::shared_state::available() || !has_opted_in(claimed))
        return;
    // The worker takes it up. A mission that watches already is marked by the plan's own row.
    static pg::Statement mark(R"sql(
INSERT INTO mana_ai.input_changes (user_id, table_name, record_id)
SELECT $1, 'aiMissions', $2
 WHERE NOT EXISTS (SELECT FROM mana_ai.input_watches w WHERE w.user_id = $1 AND w.mission_id = $2))sql");
    mark.execute({Param(claimed.user_id), Param(claimed.mission_id)});
}

}  // namespace mana_ai
