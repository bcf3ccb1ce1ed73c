// What our processes share in memory when the library is preloaded: one slot per database with a
// worker, and how to wake the launcher (docs/architecture.md, "Processes").
//
// Holds no pointers and nothing process-private. All calls are safe without preload: they then do
// nothing or say "not there".
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "mana_ai/core/time/instant.hpp"

namespace mana_ai::pg::shared_state {

// Asks for the memory; called by _PG_init while the postmaster preloads the library.
void install_hooks();

bool available();  // the library was preloaded

struct WorkerView {
    uint32_t database = 0;
    int pid = 0;  // 0 = no worker at the moment
    core::Instant since = 0;
    int in_flight = 0;
    int64_t dirty_records = 0;  // at the last thorough tick
    std::string state;          // "idle", "ticking", "paused", …
};

// The worker of a database announces itself; the slot is given back at process exit.
// Returns false when all slots are taken.
bool register_worker(uint32_t database_oid);
void report_worker(const char* state, int in_flight);
void report_dirty_records(int64_t dirty_records);

std::optional<WorkerView> worker_of(uint32_t database_oid);
std::vector<WorkerView> workers();  // of all databases

// What the worker of a database knows of a service that it calls.
struct ServiceView {
    std::string service;                 // "model", "web_research", "deep_research", "collector"
    std::string name;                    // the model; may be cut
    std::string state;                   // as core::name(GateState)
    std::optional<core::Instant> since;  // null = it is open
    int limit = 0;
    int in_flight = 0;
    int waiting = 0;
    double per_minute = 0;  // 0 = not known
    int64_t refused = 0;    // calls, since the worker began
    int64_t failed = 0;
    std::optional<core::Instant> next_try_at;
};
// Per worker: eight planner models, another one that compacts, research, the collector. More are
// left out.
inline constexpr size_t kMaxServices = 12;
void report_services(const std::vector<ServiceView>& services);
std::vector<ServiceView> services_of(uint32_t database_oid);

// Sets the latch of the database's worker; when there is none, that of the launcher, so that a
// worker is started. Never raises.
void wake_worker(uint32_t database_oid);

// How far a worker has come that the launcher started; `watch` is the launcher's number for the
// database. It tells why a worker that has ended did so.
enum class WorkerProgress : uint8_t { Started, FoundNoExtension, Registered };
inline constexpr int kMaxWatches = 64;
void note_worker_progress(int watch, WorkerProgress progress);
WorkerProgress worker_progress(int watch);

void register_launcher();
int launcher_pid();

// Whether a database without a worker asked for one since the last call.
bool take_launcher_call();

// Changes that were committed though the trigger could neither fold nor mark them: the log has to
// be folded again. Kept until the server restarts; without preload nobody knows of them.
struct UnmarkedChanges {
    uint64_t seen = 0;     // since the server's start
    uint64_t waiting = 0;  // for a fold
};
void count_unmarked_changes(uint32_t database_oid, uint64_t changes);
// The first call for a database since the server started: what an earlier start of it knew is gone.
// With `may_be_missing` there may be changes that nobody has counted; true: they now wait for a
// fold.
bool begin_unmarked_changes(uint32_t database_oid, bool may_be_missing);
std::optional<UnmarkedChanges> unmarked_changes(uint32_t database_oid);

// The log was folded by a transaction that began when so many were seen.
void settle_unmarked_changes(uint32_t database_oid, uint64_t seen);

// Errors that the trigger caught, of all backends since the server's start; without preload those
// of this process.
void count_trigger_error();
int64_t trigger_errors();

}  // namespace mana_ai::pg::shared_state
