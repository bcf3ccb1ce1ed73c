#include "mana_ai/pg/shared_state.hpp"

#include <algorithm>

#include "mana_ai/pg/compat.hpp"
#include "mana_ai/pg/crash_watch.hpp"
#include "mana_ai/pg/guard.hpp"
#include "mana_ai/pg/metrics.hpp"
#include "mana_ai/pg/time.hpp"
#include "mana_ai/pg/watch_filter.hpp"
#include "shared_locks.hpp"

extern "C" {
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/proc.h"
#include "storage/shmem.h"
}

namespace mana_ai::pg::shared_state {

namespace {

constexpr int kSlots = 64;
constexpr char kTranche[] = "mana_ai";  // of the locks

struct Service {
    char service[16];  // empty = none
    char name[80];
    char state[16];
    core::Instant since;  // 0 = none
    int limit;
    int in_flight;
    int waiting;
    double per_minute;
    int64 refused;
    int64 failed;
    core::Instant next_try_at;  // likewise
};

struct Slot {
    Oid database;  // InvalidOid = free
    int pid;
    int proc_number;
    TimestampTz since;
    int in_flight;
    int64 dirty_records;
    char state[16];
    Service services[kMaxServices];
};

// Changes of one database that could be neither folded nor marked.
struct Unmarked {
    Oid database;  // InvalidOid = free
    uint64 seen;
    uint64 folded;  // of these, those before a fold of the log
    bool begun;
};

struct State {
    Slot slots[kSlots];
    volatile WorkerProgress progress[kMaxWatches];
    Unmarked unmarked[kSlots];
    int launcher_pid;
    int launcher_proc_number;
    pg_atomic_uint32 launcher_called;
};

State* state = nullptr;
LWLockPadded* locks = nullptr;
LWLock* lock = nullptr;  // SharedLock::State
int own_slot = -1;

shmem_startup_hook_type previous_startup_hook = nullptr;

// Null without preloading.
LWLock* lock_of(SharedLock which) {
    return locks != nullptr ? &locks[static_cast<int>(which)].lock : nullptr;
}

void request_memory() {
    RequestAddinShmemSpace(add_size(MAXALIGN(sizeof(State)), metrics::shared_memory_size()));
    RequestAddinShmemSpace(crash_watch::shared_memory_size());
    RequestAddinShmemSpace(watch_filter::shared_memory_size());
    RequestNamedLWLockTranche(kTranche, kSharedLocks);
}

extern "C" {

static void on_shmem_startup() {
    if (previous_startup_hook != nullptr)
        previous_startup_hook();
    bool found = false;
    LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
    state = static_cast<State*>(ShmemInitStruct("mana_ai", sizeof(State), &found));
    if (!found) {
        memset(state, 0, sizeof(State));
        pg_atomic_init_u32(&state->launcher_called, 0);
    }
    void* counters = ShmemInitStruct("mana_ai metrics", metrics::shared_memory_size(), &found);
    metrics::use_shared_memory(counters, !found);
    void* slots = ShmemInitStruct("mana_ai crash watch", crash_watch::shared_memory_size(), &found);
    crash_watch::use_shared_memory(slots, !found);
    void* watched =
        ShmemInitStruct("mana_ai watched records", watch_filter::shared_memory_size(), &found);
    watch_filter::use_shared_memory(watched, !found);
    locks = GetNamedLWLockTranche(kTranche);
    lock = lock_of(SharedLock::State);
    LWLockRelease(AddinShmemInitLock);
}

static void on_worker_exit(int, Datum) {
    LWLockAcquire(lock, LW_EXCLUSIVE);
    state->slots[own_slot] = Slot{};
    LWLockRelease(lock);
}

static void on_launcher_exit(int, Datum) {
    LWLockAcquire(lock, LW_EXCLUSIVE);
    state->launcher_pid = 0;
    LWLockRelease(lock);
}

}  // extern "C"

// The number of a process that has just ended may be reused; an unnecessarily set latch is
// harmless, so no lock is held.
void set_latch_of(int proc_number) {
    SetLatch(&ProcGlobal->allProcs[proc_number].procLatch);
}

WorkerView view_of(const Slot& slot) {
    WorkerView view;
    view.database = slot.database;
    view.pid = slot.pid;
    view.since = instant_from_timestamptz(slot.since);
    view.in_flight = slot.in_flight;
    view.dirty_records = slot.dirty_records;
    view.state = slot.state;
    return view;
}

}  // namespace

void install_hooks() {
    compat::at_shmem_request(request_memory);
    previous_startup_hook = shmem_startup_hook;
    shmem_startup_hook = on_shmem_startup;
}

bool available() {
    return state != nullptr;
}

bool register_worker(uint32_t database_oid) {
    if (!available())
        return true;
    return guarded([database_oid] {
        bool registered = false;
        LWLockAcquire(lock, LW_EXCLUSIVE);
        for (int i = 0; i < kSlots && !registered; i++) {
            if (state->slots[i].database != InvalidOid)
                continue;
            state->slots[i] = Slot{
                database_oid, MyProcPid, compat::own_proc_number(), GetCurrentTimestamp(), 0, 0,
                "starting",   {}};
            own_slot = i;
            registered = true;
        }
        LWLockRelease(lock);
        if (registered)
            before_shmem_exit(on_worker_exit, 0);
        return registered;
    });
}

void report_worker(const char* worker_state, int in_flight) {
    if (!available() || own_slot < 0)
        return;
    LWLockAcquire(lock, LW_EXCLUSIVE);
    Slot& slot = state->slots[own_slot];
    slot.in_flight = in_flight;
    strlcpy(slot.state, worker_state, sizeof(slot.state));
    LWLockRelease(lock);
}

void report_dirty_records(int64_t dirty_records) {
    if (!available() || own_slot < 0)
        return;
    LWLockAcquire(lock, LW_EXCLUSIVE);
    state->slots[own_slot].dirty_records = dirty_records;
    LWLockRelease(lock);
}

void report_services(const std::vector<ServiceView>& services) {
    if (!available() || own_slot < 0)
        return;
    Service copies[kMaxServices] = {};
    for (size_t i = 0; i < std::min(services.size(), kMaxServices); i++) {
        const ServiceView& view = services[i];
        Service& copy = copies[i];
        strlcpy(copy.service, view.service.c_str(), sizeof(copy.service));
        strlcpy(copy.name, view.name.c_str(), sizeof(copy.name));
        strlcpy(copy.state, view.state.c_str(), sizeof(copy.state));
        copy.since = view.since.value_or(0);
        copy.limit = view.limit;
        copy.in_flight = view.in_flight;
        copy.waiting = view.waiting;
        copy.per_minute = view.per_minute;
        copy.refused = view.refused;
        copy.failed = view.failed;
        copy.next_try_at = view.next_try_at.value_or(0);
    }
    LWLockAcquire(lock, LW_EXCLUSIVE);
    memcpy(state->slots[own_slot].services, copies, sizeof(copies));
    LWLockRelease(lock);
}

std::vector<ServiceView> services_of(uint32_t database_oid) {
    std::vector<ServiceView> views;
    if (!available())
        return views;
    Service copies[kMaxServices] = {};
    LWLockAcquire(lock, LW_SHARED);
    for (const Slot& slot : state->slots)
        if (slot.database == database_oid && slot.pid != 0)
            memcpy(copies, slot.services, sizeof(copies));
    LWLockRelease(lock);
    for (const Service& copy : copies) {
        if (copy.service[0] == '\0')
            continue;
        ServiceView view;
        view.service = copy.service;
        view.name = copy.name;
        view.state = copy.state;
        if (copy.since != 0)
            view.since = copy.since;
        view.limit = copy.limit;
        view.in_flight = copy.in_flight;
        view.waiting = copy.waiting;
        view.per_minute = copy.per_minute;
        view.refused = copy.refused;
        view.failed = copy.failed;
        if (copy.next_try_at != 0)
            view.next_try_at = copy.next_try_at;
        views.push_back(std::move(view));
    }
    return views;
}

std::optional<WorkerView> worker_of(uint32_t database_oid) {
    if (!available())
        return std::nullopt;
    Slot copy{};
    LWLockAcquire(lock, LW_SHARED);
    for (const Slot& slot : state->slots)
        if (slot.database == database_oid)
            copy = slot;
    LWLockRelease(lock);
    return copy.pid != 0 ? std::optional(view_of(copy)) : std::nullopt;
}

std::vector<WorkerView> workers() {
    std::vector<WorkerView> views;
    if (!available())
        return views;
    Slot copies[kSlots];
    LWLockAcquire(lock, LW_SHARED);
    memcpy(copies, state->slots, sizeof(copies));
    LWLockRelease(lock);
    for (const Slot& slot : copies)
        if (slot.database != InvalidOid)
            views.push_back(view_of(slot));
    return views;
}

void wake_worker(uint32_t database_oid) {
    if (!available())
        return;
    int target = -1;
    LWLockAcquire(lock, LW_SHARED);
    for (const Slot& slot : state->slots)
        if (slot.database == database_oid)
            target = slot.proc_number;
    // A database without a configured worker wakes the launcher at every commit: once until it
    // reacts.
    if (target < 0 && state->launcher_pid != 0 &&
        pg_atomic_exchange_u32(&state->launcher_called, 1) == 0)
        target = state->launcher_proc_number;
    LWLockRelease(lock);
    if (target >= 0)
        set_latch_of(target);
}

void note_worker_progress(int watch, WorkerProgress progress) {
    if (available() && watch >= 0 && watch < kMaxWatches)
        state->progress[watch] = progress;
}

WorkerProgress worker_progress(int watch) {
    return available() && watch >= 0 && watch < kMaxWatches ? state->progress[watch]
                                                            : WorkerProgress::Started;
}

void register_launcher() {
    guarded([] {
        LWLockAcquire(lock, LW_EXCLUSIVE);
        state->launcher_pid = MyProcPid;
        state->launcher_proc_number = compat::own_proc_number();
        LWLockRelease(lock);
        before_shmem_exit(on_launcher_exit, 0);
    });
}

bool take_launcher_call() {
    return available() && pg_atomic_exchange_u32(&state->launcher_called, 0) != 0;
}

namespace {

// With the lock held. Null: more databases than the maximum of workers; their logs are not folded
// again.
Unmarked* unmarked_entry(Oid database) {
    // Entries are never released, so the first free one comes after all others.
    for (Unmarked& entry : state->unmarked) {
        if (entry.database != database && entry.database != InvalidOid)
            continue;
        entry.database = database;
        return &entry;
    }
    return nullptr;
}

}  // namespace

void count_unmarked_changes(uint32_t database_oid, uint64_t changes) {
    metrics::count(core::Metric::ChangesUnmarked, {}, changes);
    if (!available())
        return;
    LWLockAcquire(lock, LW_EXCLUSIVE);
    if (Unmarked* entry = unmarked_entry(database_oid))
        entry->seen += changes;
    LWLockRelease(lock);
}

bool begin_unmarked_changes(uint32_t database_oid, bool may_be_missing) {
    if (!available())
        return false;
    bool waiting = false;
    LWLockAcquire(lock, LW_EXCLUSIVE);
    if (Unmarked* entry = unmarked_entry(database_oid); entry != nullptr && !entry->begun) {
        entry->begun = true;
        waiting = may_be_missing;
        if (waiting)
            entry->seen++;
    }
    LWLockRelease(lock);
    return waiting;
}

std::optional<UnmarkedChanges> unmarked_changes(uint32_t database_oid) {
    if (!available())
        return std::nullopt;
    UnmarkedChanges found;
    LWLockAcquire(lock, LW_SHARED);
    for (const Unmarked& entry : state->unmarked)
        if (entry.database == database_oid)
            found = {entry.seen, entry.seen - entry.folded};
    LWLockRelease(lock);
    return found;
}

void settle_unmarked_changes(uint32_t database_oid, uint64_t seen) {
    if (!available())
        return;
    LWLockAcquire(lock, LW_EXCLUSIVE);
    for (Unmarked& entry : state->unmarked)
        if (entry.database == database_oid && entry.folded < seen)
            entry.folded = seen;
    LWLockRelease(lock);
}

void count_trigger_error() {
    metrics::count(core::Metric::TriggerErrors);
}

int64_t trigger_errors() {
    return static_cast<int64_t>(metrics::counter(core::Metric::TriggerErrors));
}

}  // namespace mana_ai::pg::shared_state

namespace mana_ai::pg {

SharedLockScope::SharedLockScope(SharedLock which) : lock_(shared_state::lock_of(which)) {
    if (lock_ != nullptr)
        LWLockAcquire(lock_, LW_EXCLUSIVE);
}

SharedLockScope::~SharedLockScope() {
    if (lock_ != nullptr)
        LWLockRelease(lock_);
}

}  // namespace mana_ai::pg
