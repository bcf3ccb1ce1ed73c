#include "mana_ai/extension/process/housekeeping.hpp"

#include <algorithm>
#include <filesystem>
#include <system_error>

#include "mana_ai/core/service/retry_policy.hpp"
#include "mana_ai/crypto/digest.hpp"
#include "mana_ai/extension/lease/run_record.hpp"
#include "mana_ai/pg/session_lock.hpp"
#include "mana_ai/pg/settings.hpp"
#include "mana_ai/pg/spi.hpp"

namespace mana_ai {

namespace {

// No statement here waits for a row that a user's transaction has locked: the next pass tries
// again.

// How far back changes of agents are searched: a change is stamped when it is made and visible when
// it is committed. Finding a change twice is harmless, since the versions decide.
constexpr core::Instant kLateCommit = 30 * core::kMicrosPerSecond;

// When the file was last written; empty if there is none. This represents the key: nothing derived
// from the key itself is stored in a table, where guesses could be tested against it.
std::string last_written(const std::string& path) {
    std::error_code error;
    const auto at = std::filesystem::last_write_time(path, error);
    return error ? std::string() : std::to_string(at.time_since_epoch().count());
}

// Of the settings that decide whether a refused request could now succeed (docs/contract/tick.md:
// "next attempt … when mission, agent or settings change").
std::string settings_fingerprint() {
    const std::string key_file = pg::settings::service_key_file();
    const pg::settings::Transport transport = pg::settings::transport();
    std::string text;
    for (const std::string& part :
         {pg::settings::llm_url(), pg::settings::planner_model_list(), transport.proxy,
          transport.ca_file, last_written(transport.ca_file), pg::settings::api_url(),
          pg::settings::research_url(), pg::settings::grant_private_key_file(), key_file,
          last_written(key_file)})
        text += part + '\n';
    text += std::to_string(pg::settings::max_record_size()) + '\n';
    std::string digest = crypto::sha256_hex(text);
    digest.resize(16);
    return digest;
}

}  // namespace

std::string installed_version() {
    static pg::Statement select_version(
        "SELECT extversion FROM pg_catalog.pg_extension WHERE extname = 'mana_ai'");
    const auto rows = select_version.execute({}, true).rows;
    return rows.empty() ? std::string() : rows.front().text(0);
}

std::string sync_table_problem() {
    static pg::Statement select_problem("SELECT mana_ai.sync_table_problem()");
    return select_problem.execute({}, true).rows.front().optional_text(0).value_or("");
}

int recover_runs_of_dead_engines(uint32_t own_engine, core::Instant now) {
    static pg::Statement select_engines(R"sql(
SELECT DISTINCT lease_owner FROM mana_ai.runs
 WHERE outcome = 'running' AND lease_owner IS NOT NULL AND lease_owner <> $1)sql");
    int recovered = 0;
    for (const pg::Row& row : select_engines.execute({int64_t{own_engine}}).rows) {
        const auto engine = static_cast<uint32_t>(row.number(0));
        if (pg::is_session_lock_held(pg::LockKey::Engine, engine))
            continue;
        // After the first crash the mission runs again at once: it is more likely the victim than
        // the culprit. `attempts` makes it wait after the next crash.
        recovered += abandon_runs_of(engine, {"crashed", "crashed", true, std::nullopt}, now);
    }
    if (recovered > 0) {
        static pg::Statement back_off(R"sql(
UPDATE mana_ai.mission_schedule s
   SET not_before = w.until, wake_at = CASE WHEN s.due_at IS NOT NULL THEN greatest(s.due_at, w.until) END
  FROM (SELECT c.user_id, c.mission_id,
               $1::timestamptz + least(interval '6 hours',
                                       interval '1 minute' * 2 ^ least(c.attempts - 2, 9)) AS until
          FROM mana_ai.runs r
          JOIN mana_ai.mission_schedule c ON c.user_id = r.user_id AND c.mission_id = r.mission_id
         WHERE r.outcome = 'crashed' AND r.finished_at = $1
           AND r.started_at > $1::timestamptz - interval '1 day'
           AND c.attempts > 1 AND c.lease_owner IS NULL
           FOR UPDATE OF c SKIP LOCKED) w
 WHERE s.user_id = w.user_id AND s.mission_id = w.mission_id)sql");
        back_off.execute({pg::Timestamp{now}});
    }
    return recovered;
}

void free_missions_of_changed_agents(core::Instant since, core::Instant now) {
    // In two steps, so that no plan can begin with the schedule, which grows with the missions; the
    // number of recently changed agents does not.
    static pg::Statement select_changed(R"sql(
SELECT user_id, agent_id, version FROM mana_ai.agent_snapshots WHERE updated_at > $1)sql");
    static pg::Statement free_missions(R"sql(
UPDATE mana_ai.mission_schedule s SET not_before = NULL, wake_at = s.due_at
  FROM (SELECT w.user_id, w.mission_id FROM mana_ai.mission_schedule w
         WHERE w.user_id = $2 AND w.agent_id = $3 AND w.lease_owner IS NULL
           AND w.not_before > $1 AND w.agent_version IS DISTINCT FROM $4
           FOR UPDATE SKIP LOCKED) f
 WHERE s.user_id = f.user_id AND s.mission_id = f.mission_id)sql");
    for (const pg::Row& agent : select_changed.execute({pg::Timestamp{since - kLateCommit}}).rows)
        free_missions.execute({pg::Timestamp{now}, std::string_view(agent.text(0)),
                               std::string_view(agent.text(1)), agent.number(2)});
}

void pull_backoffs_back(core::Instant by, core::Instant now) {
    static pg::Statement pull_back(R"sql(
UPDATE mana_ai.mission_schedule s SET not_before = w.until, wake_at = greatest(s.due_at, w.until)
  FROM (SELECT user_id, mission_id,
               greatest(not_before - $2 * interval '1 microsecond', $1::timestamptz) AS until
          FROM mana_ai.mission_schedule
         WHERE wake_at > $1 AND not_before > $1 AND lease_owner IS NULL AND due_at IS NOT NULL
           FOR UPDATE SKIP LOCKED) w
 WHERE s.user_id = w.user_id AND s.mission_id = w.mission_id)sql");
    pull_back.execute({pg::Timestamp{now}, by});
}

core::Instant last_tick_at() {
    static pg::Statement select_last("SELECT last_tick_at FROM mana_ai.engine_state");
    const auto rows = select_last.execute({}, true).rows;
    return rows.empty() ? 0 : rows.front().optional_instant(0).value_or(0);
}

void free_missions_after_new_settings(core::Instant now) {
    const std::string fingerprint = settings_fingerprint();
    static pg::Statement remember(R"sql(
INSERT INTO mana_ai.engine_state AS e (settings_fingerprint) VALUES ($1)
    ON CONFLICT (only_row) DO UPDATE SET settings_fingerprint = $1
 WHERE e.settings_fingerprint IS DISTINCT FROM $1)sql");
    if (remember.execute({std::string_view(fingerprint)}).processed == 0)
        return;
    static pg::Statement free_missions(R"sql(
UPDATE mana_ai.mission_schedule s SET not_before = NULL, wake_at = s.due_at
  FROM (SELECT user_id, mission_id FROM mana_ai.mission_schedule
         WHERE wake_at > $1 AND not_before > $1 AND lease_owner IS NULL
           AND (error_kind IS NOT NULL OR decision = 'skipped-too-large')
           FOR UPDATE SKIP LOCKED) f
 WHERE s.user_id = f.user_id AND s.mission_id = f.mission_id)sql");
    free_missions.execute({pg::Timestamp{now}});
}

void record_grant_key(const std::string& state, const std::string& digest, core::Instant now) {
    static pg::Statement remember_state(R"sql(
INSERT INTO mana_ai.engine_state AS e (grant_key) VALUES ($1)
    ON CONFLICT (only_row) DO UPDATE SET grant_key = $1
 WHERE e.grant_key IS DISTINCT FROM $1)sql");
    remember_state.execute({std::string_view(state)});
    static pg::Statement remember_digest(R"sql(
UPDATE mana_ai.engine_state SET grant_key_digest = $1
 WHERE $1 <> '' AND grant_key_digest IS DISTINCT FROM $1)sql");
    if (remember_digest.execute({std::string_view(digest)}).processed == 0)
        return;
    static pg::Statement free_missions(R"sql(
UPDATE mana_ai.mission_schedule s SET not_before = NULL, wake_at = s.due_at
  FROM (SELECT user_id, mission_id FROM mana_ai.mission_schedule
         WHERE wake_at > $1 AND not_before > $1 AND lease_owner IS NULL
           AND decision = 'skipped-encrypted'
           FOR UPDATE SKIP LOCKED) f
 WHERE s.user_id = f.user_id AND s.mission_id = f.mission_id)sql");
    free_missions.execute({pg::Timestamp{now}});
}

void free_missions_waiting_for_agent(const std::string& user_id, const std::string& agent_id) {
    static pg::Statement free_missions(R"sql(
UPDATE mana_ai.mission_schedule s SET not_before = NULL, wake_at = s.due_at
  FROM (SELECT user_id, mission_id FROM mana_ai.mission_schedule
         WHERE user_id = $1 AND agent_id = $2 AND decision = 'skipped-concurrency'
           AND lease_owner IS NULL AND not_before IS NOT NULL
           FOR UPDATE SKIP LOCKED) f
 WHERE s.user_id = f.user_id AND s.mission_id = f.mission_id)sql");
    free_missions.execute({std::string_view(user_id), std::string_view(agent_id)});
}

void price_used_tokens() {
    // A service may use a new model name for each reply, so there may be many names without a
    // price. The walk continues in the process that does the next housekeeping.
    static pg::Statement price(R"sql(
SELECT p.last_model, p.last_tier
  FROM (SELECT) walk
  LEFT JOIN mana_ai.engine_state e ON true
 CROSS JOIN LATERAL mana_ai.price_usage_after(e.priced_model, e.priced_tier, 1000, 2000) p)sql");
    auto rows = price.execute({}).rows;
    const bool is_end = rows.front().is_null(0);
    const auto model = is_end ? std::nullopt : std::optional(rows.front().take_text(0));
    const auto tier = is_end ? std::nullopt : std::optional(rows.front().take_text(1));
    static pg::Statement remember(R"sql(
UPDATE mana_ai.engine_state SET priced_model = $1, priced_tier = $2
 WHERE (priced_model, priced_tier) IS DISTINCT FROM ($1, $2))sql");
    remember.execute({pg::text_or_null(model), pg::text_or_null(tier)});
}

std::optional<core::Instant> next_wake_at() {
    static pg::Statement select_next(
        "SELECT wake_at FROM mana_ai.mission_schedule WHERE wake_at IS NOT NULL "
        "ORDER BY wake_at LIMIT 1");
    const auto rows = select_next.execute({}, true).rows;
    if (rows.empty())
        return std::nullopt;
    return rows.front().optional_instant(0);
}

}  // namespace mana_ai
