// The background worker of one database (docs/contract/tick.md, "Three ways to run it").

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "mana_ai/extension/process/background_fold.hpp"
#include "mana_ai/extension/process/engine.hpp"
#include "mana_ai/extension/process/housekeeping.hpp"
#include "mana_ai/extension/process/processes.hpp"
#include "mana_ai/extension/process/worker_session.hpp"
#include "mana_ai/extension/sync/backfill.hpp"
#include "mana_ai/pg/failpoint.hpp"
#include "mana_ai/pg/guard.hpp"
#include "mana_ai/pg/log.hpp"
#include "mana_ai/pg/settings.hpp"
#include "mana_ai/pg/shared_state.hpp"
#include "mana_ai/pg/spi.hpp"
#include "mana_ai/pg/termination.hpp"
#include "mana_ai/pg/time.hpp"
#include "mana_ai/pg/transaction.hpp"
#include "mana_ai/pg/wait.hpp"

extern "C" {
#include "postmaster/bgworker.h"
#include "storage/ipc.h"
}

namespace mana_ai {

namespace {

// The worker handles a burst of commits once in this time.
constexpr core::Instant kShortestPause = 4'000;
// While a manual tick holds the tick's lock.
constexpr core::Instant kOverlapPause = 250'000;
// After a cancel by the operator, before the canceled missions are tried again.
constexpr core::Instant kCancelPause = core::kMicrosPerMinute;
// Without work the clocks are compared this often.
constexpr core::Instant kLongestPause = 5 * core::kMicrosPerSecond;
// The tolerated difference between wall clock and monotonic clock between two checks. NTP slews by
// less.
constexpr core::Instant kClockTolerance = core::kMicrosPerSecond;
// In a row, about eight minutes; then the process exits, and the launcher starts a new one.
constexpr int kMaxFailedPasses = 10;

class Worker {
 public:
    Worker()
        : turn_context_(AllocSetContextCreate(TopMemoryContext, "mana_ai worker turn",
                                              ALLOCSET_DEFAULT_SIZES)),
          engine_("worker"),
          wait_set_(engine_.poll_fd()) {}

    [[noreturn]] void run();

 private:
    enum class Fit { Yes, ExtensionGone, OtherVersion };

    void turn();
    void pass();
    void try_pass();
    void keep_house(bool full_pass);
    void begin_to_keep_up();
    void ask_for_fold();
    void end_keeping_up();
    void report();
    void notice_clock_jump();
    core::Instant next_pass_at();
    core::Instant pause();
    Fit check_extension();
    [[noreturn]] void leave(const char* why);

    // For PostgreSQL's allocations outside of transactions; reset in each iteration of the loop.
    MemoryContext turn_context_;
    Engine engine_;
    BackgroundFold fold_;
    pg::WaitSet wait_set_;
    // On the monotonic clock, as all pauses are.
    core::Instant next_full_pass_ = 0;
    core::Instant last_pass_ = 0;
    core::Instant overlap_until_ = 0;
    core::Instant retry_pass_at_ = 0;
    // The wall clock minus the monotonic one.
    core::Instant wall_offset_ = pg::now() - pg::monotonic_now();
    bool pass_wanted_ = true;
    bool keeps_up_ = false;
    bool was_clean_ = true;
    bool asked_for_fold_ = false;
    int failed_passes_ = 0;
    std::string problem_;
    const char* reported_state_ = nullptr;
    int reported_in_flight_ = 0;
};

Worker::Fit Worker::check_extension() {
    pg::Transaction transaction("mana_ai: looking for the extension");
    const std::string version = installed_version();
    transaction.commit();
    if (version.empty())
        return Fit::ExtensionGone;
    return version == MANA_AI_VERSION ? Fit::Yes : Fit::OtherVersion;
}

void Worker::leave(const char* why) {
    pg::log_info(std::string("worker ends: ") + why);
    engine_.drop_traces();
    proc_exit(0);
}

// One pass over the schedule. Cheap when nothing is due, whatever the history.
void Worker::pass() {
    last_pass_ = pg::monotonic_now();
    pass_wanted_ = false;
    overlap_until_ = 0;
    switch (check_extension()) {
        case Fit::Yes:
            break;
        case Fit::ExtensionGone:
            leave("the extension was dropped");
        case Fit::OtherVersion:
            // The tables do not match this library until the server is restarted. Runs in flight
            // could not be written back either.
            if (engine_.is_busy())
                engine_.abandon_runs(std::nullopt);
            engine_.forget_due_missions();
            problem_ = "version";
            next_full_pass_ = last_pass_ + pg::settings::tick_interval_us();
            return;
    }
    problem_.clear();
    const bool full_pass = last_pass_ >= next_full_pass_;
    if (full_pass || !keeps_up_)
        begin_to_keep_up();
    if (!pg::settings::tick_enabled()) {
        engine_.forget_due_missions();
        keep_house(full_pass);
        ask_for_fold();
        return;
    }
    if (!engine_.begin_tick()) {
        overlap_until_ = last_pass_ + kOverlapPause;
        pass_wanted_ = true;
        return;
    }
    if (full_pass)
        engine_.roll_tick();
    keep_house(full_pass);
    engine_.start_due_missions(pg::now());
    ask_for_fold();
    if (!engine_.is_busy())
        engine_.end_tick();
}

// If housekeeping fails because of a lock or of one broken record, it is retried later; missions
// are planned nevertheless.
void Worker::keep_house(bool full_pass) {
    if (full_pass)
        next_full_pass_ = last_pass_ + pg::settings::tick_interval_us();
    try {
        engine_.keep_house(full_pass);
    } catch (const pg::PgError& error) {
        if (error.is_interrupt())
            throw;
        pg::log_warning("housekeeping failed and is tried again at the next tick (SQLSTATE " +
                        error.sqlstate_text() + ")");
    }
    try {
        fold_.look(full_pass);
    } catch (const pg::PgError& error) {
        if (error.is_interrupt())
            throw;
        pg::log_warning("looking for a fold failed and is tried again at the next tick (SQLSTATE " +
                        error.sqlstate_text() + ")");
    }
}

// Called repeatedly, since another table may have been attached.
void Worker::begin_to_keep_up() {
    pg::Transaction transaction("mana_ai: beginning to keep up with the log");
    const bool was_clean = mana_ai::begin_to_keep_up();
    transaction.commit();
    if (!keeps_up_)
        was_clean_ = was_clean;
    keeps_up_ = true;
}

// At the end of the first pass, after due missions have been started.
void Worker::ask_for_fold() {
    if (std::exchange(asked_for_fold_, true))
        return;
    if (pg::shared_state::begin_unmarked_changes(MyDatabaseId, !was_clean_))
        next_full_pass_ = 0;
}

void Worker::end_keeping_up() {
    if (!keeps_up_)
        return;
    try {
        pg::Transaction transaction("mana_ai: ceasing to keep up with the log");
        mana_ai::end_keeping_up();
        transaction.commit();
    } catch (const pg::PgError& error) {
        pg::log_info("the log will be folded at the next start (SQLSTATE " + error.sqlstate_text() +
                     ")");
    }
}

// A pass is due at the tick interval, when the schedule says so, and after a wake-up.
core::Instant Worker::next_pass_at() {
    core::Instant at =
        std::min(next_full_pass_, engine_.next_repair_at().value_or(next_full_pass_));
    if (pass_wanted_ || engine_.wants_pass())
        at = 0;
    else if (problem_.empty() && pg::settings::tick_enabled() && engine_.next_wake_at()) {
        if (const auto room_at = engine_.room_at())
            at = std::min(at, std::max({*engine_.next_wake_at() - wall_offset_,
                                        engine_.locked_until(), *room_at}));
    }
    if (problem_.empty() && pg::settings::tick_enabled() && engine_.next_check_at())
        at = std::min(at, *engine_.next_check_at() - wall_offset_);
    if (problem_.empty() && pg::settings::tick_enabled() && engine_.next_input_wake_at())
        at = std::min(at, *engine_.next_input_wake_at() - wall_offset_);
    if (problem_.empty() && pg::settings::tick_enabled() && engine_.next_poll_at())
        at = std::min(at, *engine_.next_poll_at() - wall_offset_);
    return std::max({at, last_pass_ + kShortestPause, retry_pass_at_, overlap_until_});
}

core::Instant Worker::pause() {
    core::Instant pause =
        std::clamp<core::Instant>(next_pass_at() - pg::monotonic_now(), 0, kLongestPause);
    if (const auto engine_timeout = engine_.timeout_us())
        pause = std::min(pause, *engine_timeout);
    if (fold_.next_at() && problem_.empty())
        pause = std::clamp<core::Instant>(*fold_.next_at() - pg::monotonic_now(), 0, pause);
    return pause;
}

void Worker::report() {
    const char* state = "idle";
    if (!problem_.empty())
        state = "wrong version";
    else if (!pg::settings::tick_enabled())
        state = "paused";
    else if (engine_.in_tick())
        state = "ticking";
    if (state != reported_state_ || engine_.in_flight() != reported_in_flight_)
        pg::shared_state::report_worker(state, engine_.in_flight());
    reported_state_ = state;
    reported_in_flight_ = engine_.in_flight();
    engine_.report_services(true);
}

// The clock was set, or the machine was suspended. The schedule must be read again.
void Worker::notice_clock_jump() {
    const core::Instant jump = pg::now() - pg::monotonic_now() - wall_offset_;
    wall_offset_ += jump;
    if (std::abs(jump) <= kClockTolerance)
        return;
    pg::log_warning("the clock was set " + std::string(jump > 0 ? "forward" : "back") + " by " +
                    std::to_string(std::abs(jump) / 1000) + " ms; the schedule is read again");
    engine_.on_clock_jump(jump);
    next_full_pass_ = 0;
    retry_pass_at_ = 0;
}

void Worker::turn() {
    MemoryContextSwitchTo(turn_context_);
    MemoryContextReset(turn_context_);
    report();
    pass_wanted_ |= wait_set_.wait(pause());
    if (reload_requested()) {
        reload_settings();
        look_for_retired_settings();
        engine_.load_settings();
        next_full_pass_ = 0;
    }
    pg::check_for_interrupts();
    notice_clock_jump();
    engine_.run_ready();
    if (engine_.in_tick() && !engine_.is_busy() && !engine_.work_left())
        engine_.end_tick();
    if (engine_.take_database_trouble())
        pass_wanted_ = true;
    if (pg::monotonic_now() >= next_pass_at())
        try_pass();
    if (fold_.next_at() && problem_.empty() && pg::monotonic_now() >= *fold_.next_at())
        fold_.fold_batch(engine_.in_flight() > 0);
}

// A pass that fails (a lock, a full disk) is retried later; runs in flight continue.
void Worker::try_pass() {
    try {
        pass();
        failed_passes_ = 0;
        retry_pass_at_ = 0;
    } catch (const pg::PgError& error) {
        if (error.is_interrupt())
            throw;
        failed_passes_ = std::min(failed_passes_ + 1, kMaxFailedPasses + 1);
        if (failed_passes_ > kMaxFailedPasses && engine_.in_flight() == 0)
            throw;
        retry_pass_at_ =
            pg::monotonic_now() + (core::kMicrosPerSecond / 4 << std::min(failed_passes_, 8));
        pg::log_warning("a pass over the schedule failed and is tried again: " + error.message);
    }
}

void Worker::run() {
    for (;;) {
        if (pg::termination_requested()) {
            pg::take_termination();
            try {
                engine_.abandon_runs(std::nullopt);
            } catch (const pg::PgError& error) {
                pg::log_warning(
                    "leases could not be given back, which is left to the next worker "
                    "(SQLSTATE " +
                    error.sqlstate_text() + ")");
            }
            end_keeping_up();
            leave("termination was requested");
        }
        try {
            turn();
        } catch (const pg::PgError& error) {
            if (pg::termination_requested())
                continue;
            if (!error.is_interrupt())
                throw;
            pg::log_info("runs canceled by request");
            engine_.abandon_runs(pg::now() + kCancelPause);
        }
    }
}

}  // namespace

}  // namespace mana_ai

extern "C" PGDLLEXPORT void mana_ai_worker_main(Datum database_oid) {
    using namespace mana_ai;
    pg::entry_point([database_oid] {
        int watch = 0;
        memcpy(&watch, MyBgworkerEntry->bgw_extra, sizeof(watch));
        connect_worker(DatumGetObjectId(database_oid), "mana_ai worker",
                       pg::crash_watch::Code::Worker);
        if (pg::crash_watch::safe_mode(MyDatabaseId))
            proc_exit(0);
        if (!act_as_extension_owner()) {
            pg::shared_state::note_worker_progress(
                watch, pg::shared_state::WorkerProgress::FoundNoExtension);
            proc_exit(0);
        }
        pg::shared_state::note_worker_progress(watch, pg::shared_state::WorkerProgress::Registered);
        if (pg::shared_state::worker_of(MyDatabaseId))
            proc_exit(0);
        if (!pg::shared_state::register_worker(MyDatabaseId))
            throw pg::make_error(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED,
                                 "too many databases have a mana_ai worker");
        pg::log_info("worker started");
        MANA_AI_FAILPOINT("worker.started");
        look_for_retired_settings();
        Worker worker;
        worker.run();
    });
}
