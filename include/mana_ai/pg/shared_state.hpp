// Shared memory of the extension's processes when the library is preloaded: one slot per database
// with a worker, and how to wake the launcher (docs/architecture.md, "Processes").
//
// Holds no pointers and nothing process-private. All calls are safe without preloading: they then
// do nothing or return nothing.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "mana_ai/core/time/instant.hpp"

namespace mana_ai::pg::shared_state {

// Requests the memory; called by _PG_init while the postmaster preloads the library.
void install_hooks();

bool available();  // the library was preloaded

struct WorkerView {
    uint32_t database = 0;
    int pid = 0;
    core::Instant since = 0;
    int in_flight = 0;
    int64_t dirty_records = 0;  // at the last full pass
    std::string state;          // "idle", "ticking", "paused", …
};

// Registers the worker of a database; the slot is released at process exit. False if all slots are
// taken.
bool register_worker(uint32_t database_oid);
void report_worker(const char* state, int in_flight);
void report_dirty_records(int64_t dirty_records);

std::optional<WorkerView> worker_of(uint32_t database_oid);  // null: none runs
std::vector<WorkerView> workers();                           // of all databases

// What the worker of a database knows about a service that it calls.
struct ServiceView {
    std::string service;                 // "model", "web_research", "deep_research", "collector"
    std::string name;                    // the model; may be cut
    std::string state;                   // as core::name(GateState)
    std::optional<core::Instant> since;  // null = it is open
    int limit = 0;
    int in_flight = 0;
    int waiting = 0;
    double per_minute = 0;  // 0 = unknown
    int64_t refused = 0;    // calls, since the worker began
    int64_t failed = 0;
    std::optional<core::Instant> next_try_at;
};
// Per worker: eight planner models, the model for compactions, research, the collector. More are
// left out.
inline constexpr size_t kMaxServices = 12;
void report_services(const std::vector<ServiceView>& services);
std::vector<ServiceView> services_of(uint32_t database_oid);

// Sets the latch of the database's worker; if there is none, that of the launcher, so that a worker
// is started. Never raises.
void wake_worker(uint32_t database_oid);

// The progress of a worker that the launcher started; `watch` is the launcher's number for the
// database. It shows why a worker has ended.
enum class WorkerProgress : uint8_t { Started, FoundNoExtension, Registered };
inline constexpr int kMaxWatches = 64;
void note_worker_progress(int watch, WorkerProgress progress);
WorkerProgress worker_progress(int watch);

void register_launcher();

// Whether a database without a worker has requested one since the last call.
bool take_launcher_call();

// Changes that were committed although the trigger could neither fold nor mark them: the log has to
// be folded again. Kept until the server restarts; not counted without preloading.
struct UnmarkedChanges {
    uint64_t seen = 0;     // since the server's start
    uint64_t waiting = 0;  // for a fold
};
void count_unmarked_changes(uint32_t database_oid, uint64_t changes);
// Called once per worker; the first call for a database since the server's start finds no counts.
// With `may_be_missing` there may be uncounted changes; true: they now wait for a fold.
bool begin_unmarked_changes(uint32_t database_oid, bool may_be_missing);
std::optional<UnmarkedChanges> unmarked_changes(uint32_t database_oid);

// The log was folded by a transaction that began when this many were seen.
void settle_unmarked_changes(uint32_t database_oid, uint64_t seen);

// Errors that the trigger caught, of all backends since the server's start; without preloading
// those of this process.
void count_trigger_error();
int64_t trigger_errors();

}  // namespace mana_ai::pg::shared_state
