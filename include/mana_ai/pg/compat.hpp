// Differences between PostgreSQL 14 and 18: the only place that checks PG_VERSION_NUM. Everything
// here is like PostgreSQL's own functions: without destructors, and it may raise errors.
#pragma once

#include <cstring>

#include "mana_ai/pg/postgres.hpp"

extern "C" {
#include "access/genam.h"
#include "access/tableam.h"
#include "catalog/pg_publication.h"
#include "executor/executor.h"
#include "parser/parse_relation.h"
#include "postmaster/autovacuum.h"
#include "replication/walsender.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lock.h"
#include "storage/proc.h"
#include "storage/shm_mq.h"
#include "utils/guc.h"
#include "utils/guc_tables.h"
#include "utils/snapmgr.h"
#include "utils/timeout.h"
#if PG_VERSION_NUM >= 160000
#include "varatt.h"  // came with postgres.h before
#endif
#if PG_VERSION_NUM >= 180000
#include "storage/waiteventset.h"
#endif
}

#if PG_VERSION_NUM < 140000
#error "mana_ai needs PostgreSQL 14 or later"
#endif

namespace mana_ai::pg::compat {

// ---------------------------------------------------------------- start of the server

// `request` requests shared memory and locks. To be called while the library is preloaded.
inline void at_shmem_request(void (*request)()) {
#if PG_VERSION_NUM >= 150000
    static shmem_request_hook_type previous = nullptr;
    static void (*ours)() = nullptr;
    previous = shmem_request_hook;
    ours = request;
    shmem_request_hook = [] {
        if (previous != nullptr)
            previous();
        ours();
    };
#else
    request();
#endif
}

// The maximum number of processes in the extension's code.
inline int max_processes() {
#if PG_VERSION_NUM >= 150000
    return MaxBackends;
#else
    // MaxBackends is not there yet when this version asks for it.
    return MaxConnections + autovacuum_max_workers + 1 + max_worker_processes + max_wal_senders;
#endif
}

inline void reserve_setting_prefix(const char* prefix) {
#if PG_VERSION_NUM >= 150000
    MarkGUCPrefixReserved(prefix);
#else
    EmitWarningsOnPlaceholders(prefix);
#endif
}

inline const config_generic* find_setting(const char* name) {
#if PG_VERSION_NUM >= 160000
    return find_option(name, false, true, DEBUG5);
#else
    config_generic** settings = get_guc_variables();
    for (int i = 0; i < GetNumConfigOptions(); i++)
        if (std::strcmp(settings[i]->name, name) == 0)
            return settings[i];
    return nullptr;
#endif
}

// ---------------------------------------------------------------- this process

// Its number among the server's processes; negative before it has one.
inline int own_proc_number() {
#if PG_VERSION_NUM >= 170000
    return MyProcNumber;
#else
    return MyProc != nullptr ? MyProc->pgprocno : -1;
#endif
}

inline LocalTransactionId current_local_transaction() {
#if PG_VERSION_NUM >= 170000
    return MyProc->vxid.lxid;
#else
    return MyProc->lxid;
#endif
}

// Whether the server has transaction_timeout.
constexpr bool kHasTransactionTimeout = PG_VERSION_NUM >= 170000;

// Once after `limit_us`, and then, if supported, every `repeat_ms`.
inline void enable_repeated_timeout(TimeoutId id, int64 limit_us, int repeat_ms) {
#if PG_VERSION_NUM >= 150000
    enable_timeout_every(id, GetCurrentTimestamp() + limit_us, repeat_ms);
#else
    (void)repeat_ms;
    enable_timeout_after(id, static_cast<int>(limit_us / 1000));
#endif
}

inline WaitEventSet* create_wait_event_set(int events) {
#if PG_VERSION_NUM >= 170000
    return CreateWaitEventSet(nullptr, events);
#else
    return CreateWaitEventSet(TopMemoryContext, events);
#endif
}

// Calls `look` with the locks that this process holds in the partition, until it returns true. Only
// the process itself adds to the list, so an empty one needs no lock.
template <typename Look>
void each_held_lock(int partition, Look look) {
#if PG_VERSION_NUM >= 160000
    dlist_head* list = &MyProc->myProcLocks[partition];
    if (dlist_is_empty(list))
        return;
    LWLockAcquire(LockHashPartitionLockByIndex(partition), LW_SHARED);
    // The macros of ilist.h do not compile as C++.
    constexpr Size kLink = offsetof(PROCLOCK, procLink);
    for (dlist_node* at = list->head.next; at != &list->head; at = at->next)
        if (look(reinterpret_cast<const PROCLOCK*>(reinterpret_cast<const char*>(at) - kLink)))
            break;
#else
    SHM_QUEUE* list = &MyProc->myProcLocks[partition];
    if (SHMQueueEmpty(list))
        return;
    LWLockAcquire(LockHashPartitionLockByIndex(partition), LW_SHARED);
    constexpr Size kLink = offsetof(PROCLOCK, procLink);
    for (auto* held = reinterpret_cast<PROCLOCK*>(SHMQueueNext(list, list, kLink)); held != nullptr;
         held = reinterpret_cast<PROCLOCK*>(SHMQueueNext(list, &held->procLink, kLink)))
        if (look(held))
            break;
#endif
    LWLockRelease(LockHashPartitionLockByIndex(partition));
}

inline shm_mq_result send_message(shm_mq_handle* queue, Size size, const char* data, bool nowait) {
#if PG_VERSION_NUM >= 150000
    return shm_mq_send(queue, size, data, nowait, true);
#else
    return shm_mq_send(queue, size, data, nowait);
#endif
}

// ---------------------------------------------------------------- tables

inline IndexScanDesc begin_index_scan(Relation table, Relation index, Snapshot snapshot, int keys) {
#if PG_VERSION_NUM >= 180000
    return index_beginscan(table, index, snapshot, nullptr, keys, 0);
#else
    return index_beginscan(table, index, snapshot, keys, 0);
#endif
}

// `entry` is the only table of the range table.
inline void init_range_table(EState* estate, RangeTblEntry* entry) {
    List* table = list_make1(entry);
#if PG_VERSION_NUM >= 160000
    List* permissions = NIL;
    addRTEPermissionInfo(&permissions, entry);
#endif
#if PG_VERSION_NUM >= 180000
    ExecInitRangeTable(estate, table, permissions, bms_make_singleton(1));
#elif PG_VERSION_NUM >= 160000
    ExecInitRangeTable(estate, table, permissions);
#else
    ExecInitRangeTable(estate, table);
#endif
}

// Whether the row filters and column lists of publications, where there are any, leave updates and
// deletions of the table possible.
inline bool publications_allow_changes(Relation table) {
#if PG_VERSION_NUM >= 150000
    PublicationDesc published;
    RelationBuildPublicationDesc(table, &published);
    return published.rf_valid_for_update && published.rf_valid_for_delete &&
           published.cols_valid_for_update && published.cols_valid_for_delete;
#else
    (void)table;
    return true;
#endif
}

// Which indexes need an entry for the version that an update has made.
struct IndexUpdates {
    bool any;
    bool only_summarizing;
};

inline TM_Result update_tuple(Relation table, ItemPointer tid, TupleTableSlot* slot, bool wait,
                              TM_FailureData* failure, IndexUpdates* updates) {
    LockTupleMode lock_mode;
#if PG_VERSION_NUM >= 160000
    TU_UpdateIndexes which = TU_None;
#else
    bool which = false;
#endif
    const TM_Result result =
        table_tuple_update(table, tid, slot, GetCurrentCommandId(true), SnapshotAny,
                           InvalidSnapshot, wait, failure, &lock_mode, &which);
#if PG_VERSION_NUM >= 160000
    *updates = {which != TU_None, which == TU_Summarizing};
#else
    *updates = {which, false};
#endif
    return result;
}

inline bool is_summarizing(const IndexInfo* info) {
#if PG_VERSION_NUM >= 160000
    return info->ii_Summarizing;
#else
    (void)info;
    return false;
#endif
}

inline void clean_up_index_insert(Relation index, IndexInfo* info) {
#if PG_VERSION_NUM >= 170000
    index_insert_cleanup(index, info);
#else
    (void)index;
    (void)info;
#endif
}

}  // namespace mana_ai::pg::compat
