#include "mana_ai/extension/process/engine.hpp"

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>

#include "mana_ai/core/planner/planner_loop.hpp"
#include "mana_ai/core/text/wipe.hpp"
#include "mana_ai/crypto/digest.hpp"
#include "mana_ai/extension/lease/ledger.hpp"
#include "mana_ai/extension/lease/run_metrics.hpp"
#include "mana_ai/extension/lease/run_record.hpp"
#include "mana_ai/extension/lease/usage_sums.hpp"
#include "mana_ai/extension/process/expired_rows.hpp"
#include "mana_ai/extension/process/housekeeping.hpp"
#include "mana_ai/extension/run/input_watches.hpp"
#include "mana_ai/extension/run/model_call.hpp"
#include "mana_ai/extension/run/run_span.hpp"
#include "mana_ai/extension/run/tool_table.hpp"
#include "mana_ai/extension/run/what_if.hpp"
#include "mana_ai/extension/sync/backfill.hpp"
#include "mana_ai/extension/sync/dirty_records.hpp"
#include "mana_ai/pg/crash_watch.hpp"
#include "mana_ai/pg/failpoint.hpp"
#include "mana_ai/pg/guard.hpp"
#include "mana_ai/pg/log.hpp"
#include "mana_ai/pg/metrics.hpp"
#include "mana_ai/pg/random.hpp"
#include "mana_ai/pg/session_lock.hpp"
#include "mana_ai/pg/settings.hpp"
#include "mana_ai/pg/shared_state.hpp"
#include "mana_ai/pg/spi.hpp"
#include "mana_ai/pg/time.hpp"
#include "mana_ai/pg/transaction.hpp"
#include "mana_ai/pg/wake.hpp"

namespace mana_ai {

namespace {

constexpr int kClaimBatch = 100;  // keeps the claiming transaction short
constexpr int kRepairBatch = 50;  // likewise
constexpr int kCheckBatch = 20;   // of missions that may have lost a plan, per pass
constexpr core::Instant kFirstCheckPause = core::kMicrosPerSecond;
// Short enough that a stop ends calls within a second.
constexpr core::Instant kStopsInterval = 3 * core::kMicrosPerSecond / 10;
constexpr int64_t kCheckTime = 200'000;        // microseconds of a pass
constexpr core::Instant kHouseTime = 100'000;  // of a pass, for what may take many
constexpr core::Instant kFirstRepairPause = core::kMicrosPerSecond / 10;
constexpr core::Instant kLongestRepairPause = core::kMicrosPerMinute;
constexpr core::Instant kFirstLockedPause = core::kMicrosPerSecond / 10;
constexpr core::Instant kLongestLockedPause = 5 * core::kMicrosPerSecond;
// Batches of database steps before the network gets its turn again.
constexpr int kFlushesPerTurn = 4;
constexpr core::Instant kClockTolerance = core::kMicrosPerSecond;
constexpr std::chrono::milliseconds kFlushTimePerTurn{100};
constexpr size_t kMaxTickErrors = 20;
constexpr int kPlannerRounds = core::PlannerLoop::kMaxRounds;

// Longer than the longest possible run: research, every round, one compaction, and the failed calls
// of one model after the other, with both retries and both waits.
core::Instant longest_run() {
    constexpr int kCallsPerRound = 3;
    // Each further model is called once, and so is the standard tier after another one.
    const int rounds =
        kPlannerRounds + 1 + static_cast<int>(pg::settings::planner_models().size() - 1);
    const core::Instant patience = (rounds + 1) * kPatienceOfPaid;
    constexpr core::Instant kResearch = 2 * core::kMicrosPerMinute;
    // Inputs of this run, and delays by resolvers of other runs.
    constexpr core::Instant kReading = 5 * core::kMicrosPerMinute;
    return kResearch + kReading + patience +
           rounds * kCallsPerRound *
               (pg::settings::llm_timeout_us() + 30 * core::kMicrosPerSecond) +
           core::kMicrosPerMinute;
}

// Every run in flight needs a connection, and the usual soft limit is 1024 descriptors.
void raise_file_limit() {
    rlimit limit{};
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
        limit.rlim_cur = limit.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &limit);
    }
}

void log_run(const std::string& by, const ClaimedMission& claimed, const RunResult& result,
             core::Instant started_at) {
    pg::log_info("mission run ended: by=" + by + " run=" + claimed.run_id + " user=" +
                 pg::printable(claimed.user_id) + " mission=" + pg::printable(claimed.mission_id) +
                 " agent=" + (claimed.agent ? pg::printable(claimed.agent->id) : std::string("-")) +
                 " outcome=" + name(result.outcome) +
                 (result.error_kind.empty() ? "" : " error=" + result.error_kind) + " rounds=" +
                 std::to_string(result.rounds) + " steps=" + std::to_string(result.steps) +
                 " tokens=" + std::to_string(result.total_tokens) +
                 " ms=" + std::to_string((pg::monotonic_now() - started_at) / 1000));
}

}  // namespace

Engine::Engine(std::string by)
    : by_(std::move(by)),
      number_(pg::random_uint31()),
      http_(loop_),
      jobs_(loop_),
      tracer_(loop_),
      gates_(loop_, stops_),
      services_{loop_,           nullptr, jobs_,  catalog_, grant_key_, tracer_, resolver_patience_,
                table_patience_, gates_,  stops_, {},       {}},
      polls_(services_),
      counts_started_(by_ != "worker"),
      locked_pause_(kFirstLockedPause) {
    if (!pg::try_session_lock(pg::LockKey::Engine, number_))
        throw pg::make_error(ERRCODE_INTERNAL_ERROR, "could not take the lock of a new engine");
    raise_file_limit();
    load_settings();
}

Engine::~Engine() {
    loop_.cancel_all();
    core::wipe(services_.authorization);
    core::wipe(services_.service_key);
}

void Engine::drop_traces() {
    loop_.cancel_all();
    runs_.clear();
    tracer_.drop_rest();
}

void Engine::load_settings() {
    std::string problem;
    std::string key = pg::settings::service_key(problem);
    if (!problem.empty())
        pg::log_warning("calls go out without a service key: " + problem);
    // Calls that follow in runs that go on keep to it as well.
    if (services_.http != nullptr)
        services_.http = http_.renewed();
    const std::string ca_file = pg::settings::transport().ca_file;
    if (!ca_file.empty() && access(ca_file.c_str(), R_OK) != 0)
        pg::log_warning(
            "no https service can be called: could not read the file that "
            "mana_ai.ca_file names");
    core::wipe(services_.authorization);
    core::wipe(services_.service_key);
    services_.authorization = key.empty() ? "" : "Authorization: Bearer " + key;
    services_.service_key = key.empty() ? "" : "X-Service-Key: " + key;
    std::string digest = crypto::sha256_hex(key);
    explicit_bzero(key.data(), key.size());
    gates_.load_settings(digest != authorization_digest_);
    authorization_digest_ = std::move(digest);
    grant_key_.load();
    tracer_.load_settings();
}

bool Engine::begin_tick() {
    if (in_tick_)
        return true;
    if (!pg::try_session_lock(pg::LockKey::Tick))
        return false;
    in_tick_ = true;
    counts_ = TickCounts{};
    counts_.scanned_at = pg::now();
    tick_started_at_ = pg::monotonic_now();
    started_by_agent_.clear();
    return true;
}

void Engine::end_tick() {
    if (!in_tick_)
        return;
    try {
        if (counts_.due > 0 || tick_is_full_pass_)
            record_tick();
    } catch (const pg::PgError& error) {
        if (error.is_interrupt())
            throw;
        pg::log_warning("the end of a tick could not be recorded (SQLSTATE " +
                        error.sqlstate_text() + ")");
    }
    release_tick();
}

void Engine::roll_tick() {
    if (!in_tick_)
        return;
    // If it cannot be recorded, missions are planned nevertheless.
    try {
        record_tick();
    } catch (const pg::PgError& error) {
        if (error.is_interrupt())
            throw;
        pg::log_warning("a tick that goes on could not be recorded (SQLSTATE " +
                        error.sqlstate_text() + ")");
    }
    counts_ = TickCounts{};
    counts_.scanned_at = pg::now();
    tick_started_at_ = pg::monotonic_now();
}

void Engine::forget_due_missions() {
    work_left_ = false;
    agents_with_room_.clear();
    if (!is_busy())
        release_tick();
}

void Engine::release_tick() {
    if (!in_tick_)
        return;
    in_tick_ = false;
    tick_is_full_pass_ = false;
    pg::release_session_lock(pg::LockKey::Tick);
}

void Engine::record_tick() {
    pg::Transaction transaction("mana_ai: recording the end of a tick");
    static pg::Statement record(R"sql(
INSERT INTO mana_ai.engine_state AS e (last_tick_at, last_tick_finished, last_tick_by,
    due_mission_count, plans_produced, plans_written_back, parse_failures, skipped, errors)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
    ON CONFLICT (only_row) DO UPDATE
   SET last_tick_at = $1, last_tick_finished = $2, last_tick_by = $3, due_mission_count = $4,
       plans_produced = $5, plans_written_back = $6, parse_failures = $7, skipped = $8, errors = $9
)sql");
    record.execute({pg::Timestamp{counts_.scanned_at}, pg::Timestamp{pg::now()},
                    std::string_view(by_), int64_t{counts_.due}, int64_t{counts_.produced},
                    int64_t{counts_.written_back}, int64_t{counts_.parse_failures},
                    int64_t{counts_.skipped}, &counts_.errors});
    MANA_AI_FAILPOINT("tick.before_commit");
    transaction.commit();
    MANA_AI_FAILPOINT("tick.after_commit");
    // A tick without due missions is recorded only if it began with a full pass.
    if (counts_.due == 0 && !tick_is_full_pass_)
        return;
    pg::metrics::count(core::Metric::Ticks);
    pg::metrics::observe(core::Metric::TickDuration,
                         static_cast<double>(pg::monotonic_now() - tick_started_at_) /
                             static_cast<double>(core::kMicrosPerSecond));
}

// Marks are repaired as soon as their transactions have ended. Records that cannot be repaired are
// tried again after growing pauses.
void Engine::repair_snapshots(bool full_pass) {
    try {
        repair_marked(full_pass);
    } catch (const pg::PgError& error) {
        if (!error.is_interrupt())
            repair_later(false);
        throw;
    }
}

void Engine::repair_later(bool got_on) {
    repair_pause_ = got_on ? kFirstRepairPause
                           : std::clamp(repair_pause_ * 2, kFirstRepairPause, kLongestRepairPause);
    next_repair_at_ = pg::monotonic_now() + repair_pause_;
}

void Engine::repair_marked(bool full_pass) {
    if (full_pass) {
        // In a separate transaction, so that a failing repair does not undo it.
        pg::Transaction transaction("mana_ai: keeping up with the log");
        keep_up_with_log();
        transaction.commit();
    }
    pg::Transaction transaction("mana_ai: repairing snapshots");
    if (full_pass)
        retry_oversized_records(SetAside::Changed);
    const RepairCounts counts = repair_dirty_records(kRepairBatch);
    MANA_AI_FAILPOINT("repair.before_commit");
    transaction.commit();
    MANA_AI_FAILPOINT("repair.after_commit");
    if (counts.left == 0 && !counts.more) {
        next_repair_at_.reset();
        repair_pause_ = kFirstRepairPause;
        return;
    }
    repair_later(counts.repaired > 0);
}

void Engine::keep_house(bool full_pass) {
    tick_is_full_pass_ |= full_pass && in_tick_;
    const core::Instant now = pg::now();
    // A problem of the log or of a mark does not prevent the rest.
    std::optional<pg::PgError> repair_failure;
    try {
        repair_snapshots(full_pass);
    } catch (const pg::PgError& error) {
        if (error.is_interrupt())
            throw;
        repair_failure = error;
    }
    prepare_tick(full_pass, now);
    take_input_changes();
    settle_erasures();
    begin_missed_erasures(full_pass);
    delete_expired(full_pass);
    add_up_usage(full_pass);
    if (repair_failure)
        throw *repair_failure;
}

// In transactions of their own, as many as there is time for: what is left goes with the next pass.
void Engine::take_input_changes() {
    const core::Instant started = pg::monotonic_now();
    bool is_all = false;
    try {
        while (!is_all && pg::monotonic_now() - started < kHouseTime) {
            pg::Transaction transaction("mana_ai: taking changes of inputs");
            load_watch_filter();
            is_all = mana_ai::take_input_changes(pg::now());
            next_input_wake_at_ = mana_ai::next_input_wake_at();
            transaction.commit();
        }
    } catch (const pg::PgError& error) {
        put_off_wakes(error);
        return;
    }
    if (!is_all)
        pg::wake_worker_now();
}

void Engine::wake_missions() {
    const core::Instant now = pg::now();
    if (!next_input_wake_at_ || *next_input_wake_at_ > now)
        return;
    try {
        pg::Transaction transaction("mana_ai: waking missions whose inputs have changed");
        mana_ai::wake_missions(now);
        next_input_wake_at_ = mana_ai::next_input_wake_at();
        transaction.commit();
    } catch (const pg::PgError& error) {
        put_off_wakes(error);
    }
    postpone_wakes(now);
}

// Nothing else must wait for that: the marks and the times stay in the tables.
void Engine::put_off_wakes(const pg::PgError& error) {
    constexpr core::Instant kPause = 10 * core::kMicrosPerSecond;
    if (error.is_interrupt())
        throw;
    if (error.sqlstate != ERRCODE_LOCK_NOT_AVAILABLE)
        pg::log_warning("missions could not be woken by changes of their inputs (SQLSTATE " +
                        error.sqlstate_text() + ")");
    next_input_wake_at_ = pg::now() + kPause;
}

// Those that are due could not be woken now.
void Engine::postpone_wakes(core::Instant now) {
    if (next_input_wake_at_ && *next_input_wake_at_ <= now)
        next_input_wake_at_ = now + core::kMicrosPerSecond / 4;
}

// In transactions of their own, for a bounded time: what is left goes with the next pass.
void Engine::delete_expired(bool full_pass) {
    more_has_expired_ |= full_pass;
    const core::Instant started = pg::monotonic_now();
    while (more_has_expired_ && pg::monotonic_now() - started < kHouseTime) {
        // After an error the next full pass goes on.
        more_has_expired_ = false;
        pg::Transaction transaction("mana_ai: deleting what has expired");
        const bool more = delete_expired_rows(pg::now());
        transaction.commit();
        more_has_expired_ = more;
    }
    if (!full_pass)
        return;
    pg::Transaction transaction("mana_ai: looking for orphaned lineage");
    sweep_orphaned_lineage();
    transaction.commit();
}

// Also between full passes, which may be hours apart.
void Engine::add_up_usage(bool full_pass) {
    const core::Instant started = pg::monotonic_now();
    bool goes_on = full_pass || more_to_add_up_ || started >= added_up_at_ + core::kMicrosPerMinute;
    if (goes_on)
        added_up_at_ = started;
    while (goes_on && pg::monotonic_now() - started < kHouseTime) {
        // After an error the next full pass goes on.
        more_to_add_up_ = false;
        pg::Transaction transaction("mana_ai: adding up what was used");
        const std::optional<bool> more = advance_usage_sums();
        transaction.commit();
        goes_on = more.value_or(false);
        more_to_add_up_ = more.value_or(true);  // else the next tick tries again
    }
}

void Engine::prepare_tick(bool full_pass, core::Instant now) {
    pg::Transaction transaction("mana_ai: preparing a tick");
    if (agents_seen_at_ == 0)
        agents_seen_at_ = last_tick_at();
    // The clock was set back between two passes.
    if (agents_seen_at_ > now + kClockTolerance)
        pull_backoffs_back(agents_seen_at_ - now, now);
    free_missions_of_changed_agents(std::min(agents_seen_at_, now), now);
    for (const AgentKey& key : agents_with_room_)
        free_missions_waiting_for_agent(key.first, key.second);
    if (full_pass) {
        recover_runs_of_dead_engines(number_, now);
        forget_dead_what_ifs();
        recover_own_runs(now);
        free_missions_after_new_settings(now);
        record_grant_key(grant_key_.state(), grant_key_.digest(), now);
        delete_orphaned_research(now);
        tools_stale_ = true;
        pg::shared_state::report_dirty_records(count_dirty_records());
        // Last: it locks the engine's row, which others also write late.
        price_used_tokens();
    }
    Stops stops = read_stops();
    MANA_AI_FAILPOINT("house.before_commit");
    transaction.commit();
    MANA_AI_FAILPOINT("house.after_commit");
    // Runs of erased users must have ended before their erasures are settled.
    if (stops.erased != stops_.erased)
        heed_stops(std::move(stops));
    agents_seen_at_ = now;
    agents_with_room_.clear();
}

void Engine::on_clock_jump(core::Instant jump) {
    if (jump >= 0)
        return;
    // keep_house() sees that it is in the future, and moves backoffs back.
    agents_seen_at_ = std::max(agents_seen_at_, pg::now() - jump);
    locked_until_ = 0;
    forget_sums();
}

// Ends this engine's runs without a task: their rows were locked when they were canceled.
void Engine::recover_own_runs(core::Instant now) {
    if (running_runs_of(number_) <= in_flight())
        return;
    abandon_runs_of(number_, {"canceled", "canceled", false, std::nullopt}, now, own_run_ids());
}

std::vector<std::string> Engine::own_run_ids() const {
    std::vector<std::string> ids;
    for (const auto& [run_id, run] : runs_) {
        ids.push_back(run_id);
        // It has been read, but its task has not resumed yet.
        if (run->read) {
            for (const ClaimedMission& mission : run->read->claimed)
                ids.push_back(mission.run_id);
        }
    }
    return ids;
}

void Engine::load_tools_if_stale() {
    if (!tools_stale_)
        return;
    LoadedTools loaded;
    {
        pg::Transaction transaction("mana_ai: loading tools");
        loaded = load_tools();
        MANA_AI_FAILPOINT("tools.before_commit");
        transaction.commit();
        MANA_AI_FAILPOINT("tools.after_commit");
    }
    tools_stale_ = false;
    if (loaded.tools == loaded_tools_)
        return;
    for (const std::string& name : loaded.unusable)
        pg::log_warning("tool \"" + pg::printable(name) +
                        "\" in mana_ai.tools is left out: its name, type or parameters are not "
                        "what model providers accept");
    loaded_tools_ = loaded.tools;
    catalog_ = core::ToolCatalog(std::move(loaded.tools));
}

bool Engine::has_room() {
    return in_flight() < pg::settings::max_concurrency() && !stops_.is_total() &&
           gates_.claimable() > 0;
}

std::optional<core::Instant> Engine::room_at() {
    if (in_flight() >= pg::settings::max_concurrency() || stops_.is_total())
        return std::nullopt;
    const auto at = gates_.next_claim_at();
    if (!at)
        return std::nullopt;
    return pg::monotonic_now() + (*at - loop_.now_us());
}

// Checking a user takes a few microseconds, and most users may have nothing due: about a hundredth
// of the time is spent on it, and more if there is much room.
int Engine::users_to_look_at(int limit) const {
    constexpr core::Instant kPerUser = core::kMicrosPerSecond / 2000;
    constexpr int kMost = 200;
    return static_cast<int>(std::min<core::Instant>(
        20 + 2 * limit + (pg::monotonic_now() - last_walk_) / kPerUser, kMost));
}

ClaimRequest Engine::claim_request(core::Instant due_until, int limit) {
    ClaimRequest request;
    request.now = pg::now();
    request.due_until = due_until;
    request.limit = limit;
    request.engine = number_;
    request.lease_expires_at = request.now + longest_run();
    // An early tick, as cron may cause, must not leave them to the one after it.
    request.look_again_at = request.now + pg::settings::tick_interval_us() * 9 / 10;
    request.still_running = [this](const std::string& run_id) { return runs_.contains(run_id); };
    request.stops = &stops_;
    request.users_to_look_at = users_to_look_at(limit);
    request.started_by_agent = counts_started_ ? &started_by_agent_ : nullptr;
    request.may_read_suspect = !reads_suspect();
    return request;
}

bool Engine::reads_suspect() const {
    return std::any_of(runs_.begin(), runs_.end(), [](const auto& run) {
        const ActiveRun& active = *run.second;
        return active.claimed.is_unread && active.claimed.is_suspect && !active.waits_for_lock;
    });
}

// Nothing is claimed, and so nothing spent, while a plan could not be written.
bool Engine::may_claim() {
    std::string problem;
    std::optional<Stops> stops;
    table_is_locked_ = false;
    try {
        pg::Transaction transaction("mana_ai: checking the attached table");
        stops = read_stops();
        problem = sync_table_problem();
        transaction.commit();
    } catch (const pg::PgError& error) {
        if (error.sqlstate != ERRCODE_LOCK_NOT_AVAILABLE)
            throw;
        table_is_locked_ = true;
        problem = "the attached table is locked by another session";
    }
    if (problem != table_problem_ && !problem.empty())
        pg::log_warning("missions are not planned: " + problem);
    table_problem_ = problem;
    if (stops)
        heed_stops(std::move(*stops));
    return problem.empty();
}

void Engine::start_due_missions(core::Instant due_until) {
    work_left_ = false;
    if (!may_claim()) {
        note_error(table_problem_);
        next_wake_at_.reset();
        postpone_wakes(pg::now());
        if (table_is_locked_) {
            next_wake_at_ = due_until;
            pause_for_locked_rows(due_until);
        }
        start_due_polls(due_until);
        return;
    }
    restore_lost_iterations();
    wake_missions();
    bool in_turn = more_than_room_ || pg::settings::max_concurrency_per_user() > 0;
    for (;;) {
        const int room = pg::settings::max_concurrency() - in_flight();
        const int limit = stops_.is_total() ? 0 : std::min({room, kClaimBatch, gates_.claimable()});
        ClaimResult result;
        {
            pg::Transaction transaction("mana_ai: claiming due missions");
            if (limit > 0) {
                ClaimRequest request = claim_request(due_until, limit);
                request.turns = in_turn ? &turns_ : nullptr;
                result = claim_due_missions(request);
                last_walk_ = in_turn ? pg::monotonic_now() : last_walk_;
            }
            next_wake_at_ = mana_ai::next_wake_at();
            polls_.look();
            MANA_AI_FAILPOINT("claim.before_commit");
            transaction.commit();
            MANA_AI_FAILPOINT("claim.after_commit");
        }
        for (const std::string& run_id : result.prolonged)
            runs_.at(run_id)->claimed.lease_expires_at = result.lease_expires_at;
        const bool result_was_locked = result.locked_in_the_way;
        const bool result_held_back = result.held_back;
        const bool more = limit > 0 && result.there_may_be_more;
        suspects_left_ = result.suspects_left;
        counts_.due += result.due;
        counts_.skipped += static_cast<int>(result.skipped.size());
        start_claimed(std::move(result));
        // After rows that others have locked there may be more. If users have a limit, only turns
        // enforce it: the next choice leaves those out.
        const bool pass_by = in_turn && result_was_locked && !result_held_back;
        if (limit <= 0) {
            work_left_ = next_wake_at_ && *next_wake_at_ <= due_until;
            more_than_room_ |= work_left_;
            break;
        }
        more_than_room_ = more;
        if (result_held_back) {
            // The end of one of their runs will make room.
            more_than_room_ = true;
            locked_until_ = pg::monotonic_now() + kFirstLockedPause;
            break;
        }
        if (!more && !pass_by) {
            pause_for_locked_rows(due_until);
            break;
        }
        in_turn = !pass_by || pg::settings::max_concurrency_per_user() > 0;
        run_ready();
    }
    start_due_polls(due_until);
}

// Each in a separate transaction: a mission that is locked, or whose rows are slow, is postponed.
void Engine::restore_lost_iterations() {
    next_check_at_.reset();
    if (!pg::settings::restore_iterations())
        return;
    const core::Instant now = pg::now();
    std::vector<SuspectMission> suspects;
    {
        pg::Transaction transaction("mana_ai: looking for lost plans");
        next_check_at_ = mana_ai::next_check_at();
        if (next_check_at_ && *next_check_at_ <= now)
            suspects = missions_to_check(now, kCheckBatch);
        transaction.commit();
    }
    if (suspects.empty()) {
        put_off_checks();
        return;
    }
    const int64_t started = pg::monotonic_now();
    bool time_is_up = false;
    for (const SuspectMission& mission : suspects) {
        run_ready();  // runs in flight get their turn between any two
        time_is_up = pg::monotonic_now() - started >= kCheckTime;
        if (time_is_up)
            break;
        const int64_t wait = table_patience_.wait_us(mission.user_id, pg::monotonic_now());
        if (wait > 0) {
            check_later_alone(mission, pg::now() + std::max(wait, kFirstCheckPause));
            continue;
        }
        try {
            pg::Transaction transaction("mana_ai: restoring a plan");
            restore_iterations(mission, now, table_patience_);
            transaction.commit();
            MANA_AI_FAILPOINT("restore.committed");
            continue;
        } catch (const pg::PgError& error) {
            if (error.is_interrupt())
                throw;
            if (error.sqlstate == ERRCODE_LOCK_NOT_AVAILABLE) {
                check_later_alone(mission, pg::now() + kFirstCheckPause);
                continue;
            }
            pg::Transaction transaction("mana_ai: putting off a check");
            const auto again = note_failed_check(mission, pg::now());
            check_later(mission, again);
            transaction.commit();
            pg::log_warning("a lost plan of mission " + pg::printable(mission.mission_id) +
                            " could not be put back and is " +
                            (again ? "tried again" : "given up") + " (SQLSTATE " +
                            error.sqlstate_text() + ")");
        }
    }
    pg::Transaction transaction("mana_ai: looking for the next check");
    next_check_at_ = mana_ai::next_check_at();
    transaction.commit();
    if (time_is_up || suspects.size() < kCheckBatch)
        put_off_checks();
}

// The remaining due checks are locked by somebody, or wait for their turn.
void Engine::put_off_checks() {
    if (next_check_at_)
        next_check_at_ = std::max(*next_check_at_, pg::now() + kFirstCheckPause);
}

void Engine::check_later_alone(const SuspectMission& mission, core::Instant at) {
    pg::Transaction transaction("mana_ai: putting off a check");
    check_later(mission, at);
    transaction.commit();
}

void Engine::start_due_polls(core::Instant due_until) {
    if (!in_tick_ || stops_.is_total() || !polls_.has_due(due_until))
        return;
    services_.http = http_.renewed();
    polls_.start_due(due_until);
}

// The claim skips a due row that an open transaction has locked, but the row is still in the
// schedule. The end of that transaction wakes the worker; until then the row is tried from time to
// time. The same applies if the attached table itself is locked.
void Engine::pause_for_locked_rows(core::Instant due_until) {
    if (!next_wake_at_ || *next_wake_at_ > due_until) {
        locked_pause_ = kFirstLockedPause;
        locked_until_ = 0;
        return;
    }
    locked_until_ = pg::monotonic_now() + locked_pause_;
    locked_pause_ = std::min(locked_pause_ * 2, kLongestLockedPause);
}

void Engine::start_mission(const std::string& user_id, const std::string& mission_id) {
    if (!may_claim())
        throw pg::make_error(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, table_problem_);
    keep_house(true);
    pg::Transaction transaction("mana_ai: claiming a mission");
    ClaimResult result = claim_mission(claim_request(pg::now(), 1), user_id, mission_id);
    MANA_AI_FAILPOINT("claim_one.before_commit");
    transaction.commit();
    MANA_AI_FAILPOINT("claim_one.after_commit");
    counts_.due += result.due;
    start_claimed(std::move(result));
}

void Engine::start_claimed(ClaimResult claimed) {
    if (!claimed.claimed.empty()) {
        services_.http = http_.renewed();
        load_tools_if_stale();
    }
    start_runs(std::move(claimed));
}

// Does not use the database: it is called when a mission has been read, also at a shutdown.
void Engine::start_runs(ClaimResult claimed) {
    last_skipped_ = std::move(claimed.skipped);
    for (ClaimedMission& mission : claimed.claimed) {
        const std::string run_id = mission.run_id;
        auto run = std::make_unique<ActiveRun>();
        run->claimed = std::move(mission);
        run->started_at = pg::monotonic_now();
        turns_.started(run->claimed.user_id);
        gates_.expect(run_id);
        if (run->claimed.is_unread) {
            ActiveRun& active = *run;
            runs_.emplace(run_id, std::move(run));
            auto read = [this, &active] {
                pg::crash_watch::note_mission(active.claimed.user_id, active.claimed.mission_id);
                active.read = read_announced(claim_request(pg::now(), 1), active.claimed);
                active.waits_for_lock = !active.read;
                // Other suspects need not wait for it.
                work_left_ |= active.waits_for_lock && std::exchange(suspects_left_, false);
                return active.read.has_value();
            };
            active.task = loop_.spawn(
                read_mission_alone(services_, active.claimed, std::move(read), active.result),
                [this, run_id](std::exception_ptr failure) { on_read_end(run_id, failure); });
            continue;
        }
        run->span = start_run_span(tracer_, run->claimed, pg::now());
        run->claimed.trace = run->span.context();
        ActiveRun& active = *run;
        runs_.emplace(run_id, std::move(run));
        active.task = loop_.spawn(
            run_mission(services_, active.claimed, active.result),
            [this, run_id](std::exception_ptr failure) { on_run_end(run_id, failure); });
    }
}

void Engine::note_error(const std::string& text, const std::string& user_id) {
    if (counts_.errors.size() >= kMaxTickErrors)
        return;
    counts_.errors.push_back(text);
    counts_.error_users.push_back(user_id);
}

void Engine::on_read_end(const std::string& run_id, std::exception_ptr failure) {
    const auto found = runs_.find(run_id);
    if (found == runs_.end())
        return;
    work_left_ |= std::exchange(suspects_left_, false);
    if (failure || found->second->result.outcome == RunOutcome::Failed) {
        on_run_end(run_id, failure);
        return;
    }
    const std::unique_ptr<ActiveRun> run = std::move(found->second);
    runs_.erase(found);
    stopped_ -= run->is_stopped ? 1 : 0;
    gates_.arrived(run_id);
    turns_.ended(run->claimed.user_id);
    counts_.due += run->read->due;
    counts_.skipped += static_cast<int>(run->read->skipped.size());
    start_runs(std::move(*run->read));
}

void Engine::on_run_end(const std::string& run_id, std::exception_ptr failure) {
    const auto found = runs_.find(run_id);
    if (found == runs_.end())
        return;
    const std::unique_ptr<ActiveRun> run = std::move(found->second);
    runs_.erase(found);
    stopped_ -= run->is_stopped ? 1 : 0;
    gates_.arrived(run_id);
    turns_.ended(run->claimed.user_id);
    if (failure)
        run->result.outcome = RunOutcome::Failed;
    const RunResult& result = run->result;
    log_run(by_, run->claimed, result, run->started_at);
    end_run_span(run->span, result);
    switch (result.outcome) {
        case RunOutcome::Planned:
            counts_.produced++;
            counts_.written_back++;
            pg::metrics::observe(core::Metric::PlannerRounds, result.rounds);
            break;
        case RunOutcome::Discarded:
            counts_.produced++;
            pg::metrics::observe(core::Metric::PlannerRounds, result.rounds);
            break;
        case RunOutcome::Skipped:
            counts_.skipped++;
            if (result.decision == kSkippedService)
                note_error(
                    "mission " + pg::printable(run->claimed.mission_id) + ": " + result.error_kind,
                    run->claimed.user_id);
            polls_.expect(pg::now());
            break;
        default:
            counts_.parse_failures += is_failed_plan(result) ? 1 : 0;
            note_error("mission " + pg::printable(run->claimed.mission_id) + ": " +
                           (result.error_kind.empty() ? "internal error" : result.error_kind),
                       run->claimed.user_id);
            break;
    }
    if (run->claimed.agent && !counts_started_)
        agents_with_room_.emplace_back(run->claimed.user_id, run->claimed.agent->id);
    last_result_ = result;
    if (failure)
        std::rethrow_exception(failure);
    MANA_AI_FAILPOINT("run.ended");
}

void Engine::run_ready() {
    if (looks_for_stops() && pg::monotonic_now() - stops_seen_at_ >= kStopsInterval) {
        try {
            look_at_stops();
        } catch (const pg::PgError& error) {
            if (error.is_interrupt())
                throw;
            work_left_ = true;  // the next pass checks again
        }
    }
    http_.drop_drained();
    loop_.run_ready();
    // Foreign code in them may be slow, and the network must not wait for too long.
    const auto started = std::chrono::steady_clock::now();
    for (int turn = 0; turn < kFlushesPerTurn && jobs_.pending() &&
                       std::chrono::steady_clock::now() - started < kFlushTimePerTurn;
         turn++) {
        end_stopped_runs();
        jobs_.flush();
        end_stopped_runs();
        loop_.run_ready();
        pg::check_for_interrupts();
    }
    work_left_ |= polls_.take_freed();
}

std::optional<int64_t> Engine::timeout_us() const {
    if (jobs_.pending())
        return 0;
    auto timeout = loop_.next_timeout_us();
    if (looks_for_stops()) {
        const int64_t left =
            std::max<int64_t>(stops_seen_at_ + kStopsInterval - pg::monotonic_now(), 0);
        timeout = timeout ? std::min(*timeout, left) : left;
    }
    return timeout;
}

}  // namespace mana_ai
