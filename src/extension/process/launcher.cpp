// The launcher keeps a worker running in every database of mana_ai.database that exists and has the
// extension (docs/architecture.md, "Processes"). It is connected to no database, so it does not
// block DROP DATABASE, and a missing database is not an error: the launcher waits for it.

#include <algorithm>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "mana_ai/core/time/instant.hpp"
#include "mana_ai/extension/process/background_worker.hpp"
#include "mana_ai/extension/process/databases.hpp"
#include "mana_ai/extension/process/processes.hpp"
#include "mana_ai/extension/process/static_process.hpp"
#include "mana_ai/extension/process/worker_session.hpp"
#include "mana_ai/pg/guard.hpp"
#include "mana_ai/pg/log.hpp"
#include "mana_ai/pg/settings.hpp"
#include "mana_ai/pg/shared_state.hpp"
#include "mana_ai/pg/time.hpp"

extern "C" {
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "storage/latch.h"
}

namespace mana_ai {

namespace {

// How soon a worker that ended is restarted, and how often the launcher checks for a database or an
// extension that does not exist yet. CREATE EXTENSION wakes it at once. All on the monotonic clock.
constexpr core::Instant kRestartPause = 2 * core::kMicrosPerSecond;
constexpr core::Instant kPoll = 30 * core::kMicrosPerSecond;
constexpr core::Instant kShortestPause = core::kMicrosPerSecond / 5;

struct Watched {
    int number = 0;
    BackgroundWorkerHandle* handle = nullptr;
    core::Instant started_at = -kRestartPause;
    core::Instant retry_at = 0;
    core::Instant pause = kRestartPause;
    bool said_safe_mode = false;
};

BackgroundWorkerHandle* start_worker(const std::string& database, Oid oid, int number) {
    const std::string name = "mana_ai worker for " + database;
    return pg::guarded([&] {
        BackgroundWorker worker = background_worker(kWorkerMain, "mana_ai worker", name.c_str());
        worker.bgw_main_arg = ObjectIdGetDatum(oid);
        memcpy(worker.bgw_extra, &number, sizeof(number));
        return start_background_worker(worker);
    });
}

class Launcher {
 public:
    [[noreturn]] void run();

 private:
    void look_after(const std::string& name, bool called);
    void wait();

    std::map<std::string, Watched> watched_;
    bool slots_exhausted_ = false;
};

void Launcher::look_after(const std::string& name, bool called) {
    const auto [entry, is_new] = watched_.try_emplace(name);
    Watched& watched = entry->second;
    if (is_new)
        watched.number = static_cast<int>(watched_.size()) - 1;
    const core::Instant now = pg::monotonic_now();
    if (watched.handle != nullptr) {
        pid_t pid = 0;
        if (GetBackgroundWorkerPid(watched.handle, &pid) != BGWH_STOPPED)
            return;
        pfree(watched.handle);
        watched.handle = nullptr;
        switch (pg::shared_state::worker_progress(watched.number)) {
            case pg::shared_state::WorkerProgress::Registered:
                watched.pause = kRestartPause;
                break;
            case pg::shared_state::WorkerProgress::FoundNoExtension:
                watched.pause = kPoll;
                break;
            case pg::shared_state::WorkerProgress::Started:
                // It could not connect, or was terminated before that.
                watched.pause = std::min(watched.pause * 2, kPoll);
                break;
        }
        watched.retry_at = now + watched.pause;
    }
    // A wake-up shortens the wait. Every commit of that database may cause one, so it does not
    // repeatedly start a worker that ends at once.
    if (called)
        watched.retry_at = std::min(watched.retry_at, watched.started_at + kRestartPause);
    if (now < watched.retry_at)
        return;
    watched.retry_at = now + kPoll;
    const Oid oid = find_database(name);
    if (!OidIsValid(oid))
        return;
    if (const auto safe = pg::crash_watch::safe_mode(oid)) {
        if (!watched.said_safe_mode)
            pg::log_warning("no worker runs in database \"" + name +
                            "\", in safe mode: " + pg::crash_watch::describe(*safe) +
                            "; mana_ai.resume_after_crash() ends that");
        watched.said_safe_mode = true;
        return;
    }
    watched.said_safe_mode = false;
    // A worker of an earlier launcher: the postmaster does not report its end to this one.
    if (pg::shared_state::worker_of(oid)) {
        watched.retry_at = now + kRestartPause;
        return;
    }
    pg::shared_state::note_worker_progress(watched.number,
                                           pg::shared_state::WorkerProgress::Started);
    watched.handle = start_worker(name, oid, watched.number);
    watched.started_at = now;
    if (watched.handle == nullptr && !slots_exhausted_)
        pg::guarded([] {
            ereport(WARNING, (errcode(ERRCODE_INSUFFICIENT_RESOURCES),
                              errmsg("mana_ai: could not start a worker: all slots for background "
                                     "workers are in use"),
                              errhint("You might need to increase max_worker_processes.")));
        });
    slots_exhausted_ = watched.handle == nullptr;
}

void Launcher::wait() {
    core::Instant until = pg::monotonic_now() + kPoll;
    for (const auto& [name, watched] : watched_)
        if (watched.handle == nullptr)
            until = std::min(until, watched.retry_at);
    const core::Instant pause = std::max(until - pg::monotonic_now(), kShortestPause);
    pg::guarded([pause] {
        (void)WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
                        static_cast<long>(pause / 1000), PG_WAIT_EXTENSION);
        ResetLatch(MyLatch);
    });
    handle_static_signals();
}

void Launcher::run() {
    const auto databases = configured_databases();
    bool said_safe_mode = false;
    for (;;) {
        const bool called = pg::shared_state::take_launcher_call();
        if (const auto safe = pg::crash_watch::safe_mode_of(pg::crash_watch::Code::Launcher)) {
            if (!said_safe_mode)
                pg::log_warning(
                    "no worker is started, in safe mode: " + pg::crash_watch::describe(*safe) +
                    "; mana_ai.resume_after_crash() ends that");
            said_safe_mode = true;
            wait();
            continue;
        }
        for (const std::string& name : databases)
            look_after(name, called);
        wait();
    }
}

}  // namespace

void register_launcher() {
    register_static_process(kLauncherMain, "mana_ai launcher", 5);
}

}  // namespace mana_ai

extern "C" PGDLLEXPORT void mana_ai_launcher_main(Datum) {
    using namespace mana_ai;
    pg::entry_point([] {
        begin_static_process("mana_ai launcher", pg::crash_watch::Code::Launcher);
        pg::shared_state::register_launcher();
        Launcher launcher;
        launcher.run();
    });
}
