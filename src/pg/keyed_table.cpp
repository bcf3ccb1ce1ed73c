#include "mana_ai/pg/keyed_table.hpp"

extern "C" {
#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/relscan.h"
#include "access/tableam.h"
#include "access/transam.h"
#include "access/xact.h"
#include "catalog/index.h"
#include "executor/executor.h"
#include "nodes/execnodes.h"
#include "storage/lmgr.h"
#include "storage/procarray.h"
#include "utils/fmgroids.h"
#include "utils/snapmgr.h"
}

namespace mana_ai::pg {

namespace {

IndexScanDesc begin_key_scan(KeyedTable& keyed, Snapshot snapshot, const Datum* key,
                             ScanKeyData* scan_keys) {
    const int columns = IndexRelationGetNumberOfKeyAttributes(keyed.key_index);
    if (columns > kMaxKeyColumns)
        elog(ERROR, "index \"%s\" has too many columns", RelationGetRelationName(keyed.key_index));
    for (int i = 0; i < columns; i++)
        ScanKeyEntryInitialize(&scan_keys[i], 0, static_cast<AttrNumber>(i + 1),
                               BTEqualStrategyNumber, InvalidOid,
                               keyed.key_index->rd_indcollation[i], F_TEXTEQ, key[i]);
#if PG_VERSION_NUM >= 180000
    IndexScanDesc scan =
        index_beginscan(keyed.table, keyed.key_index, snapshot, nullptr, columns, 0);
#else
    IndexScanDesc scan = index_beginscan(keyed.table, keyed.key_index, snapshot, columns, 0);
#endif
    index_rescan(scan, scan_keys, columns, nullptr, 0);
    return scan;
}

TM_Result lock_version(KeyedTable& keyed, uint8 flags) {
    ItemPointerData tid = keyed.slot->tts_tid;
    TM_FailureData failure;
    return table_tuple_lock(keyed.table, &tid, SnapshotAny, keyed.slot, GetCurrentCommandId(false),
                            LockTupleExclusive, LockWaitSkip, flags, &failure);
}

// What an index scan returns as live under SnapshotDirty.
Lookup look_up_live(KeyedTable& keyed, const Datum* key, bool lock) {
    SnapshotData dirty;
    InitDirtySnapshot(dirty);
    ScanKeyData scan_keys[kMaxKeyColumns];
    IndexScanDesc scan = begin_key_scan(keyed, &dirty, key, scan_keys);
    Lookup result = Lookup::Missing;
    while (result == Lookup::Missing &&
           index_getnext_slot(scan, ForwardScanDirection, keyed.slot)) {
        // An open transaction that is not ours has made or is replacing this version.
        if (TransactionIdIsValid(dirty.xmin) || TransactionIdIsValid(dirty.xmax))
            result = Lookup::Busy;
        else if (!lock || lock_version(keyed, 0) == TM_Ok)
            result = Lookup::Found;
        else
            result = Lookup::Busy;  // somebody was faster; the caller looks again
    }
    index_endscan(scan);
    return result;
}

// Whether a version that cannot be locked because it is invisible is nobody's: a transaction that
// rolled back has made it, or our own has replaced it.
bool is_void(TupleTableSlot* slot) {
    const TransactionId maker =
        HeapTupleHeaderGetXmin(reinterpret_cast<HeapTupleTableSlot*>(slot)->tuple->t_data);
    return TransactionIdIsCurrentTransactionId(maker) ||
           (!TransactionIdIsInProgress(maker) && !TransactionIdDidCommit(maker));
}

Oid primary_key_of(Relation table) {
#if PG_VERSION_NUM >= 180000
    return RelationGetPrimaryKeyIndex(table, false);
#else
    return RelationGetPrimaryKeyIndex(table);
#endif
}

// A predicate of the form "column IS [NOT] NULL", as our own partial indexes have it, is cheap to
// answer; false: it is another one.
bool is_null_test(List* predicate, TupleTableSlot* slot, bool* holds) {
    if (list_length(predicate) != 1 || !IsA(linitial(predicate), NullTest))
        return false;
    const auto* test = static_cast<NullTest*>(linitial(predicate));
    if (test->argisrow || !IsA(test->arg, Var))
        return false;
    const auto* column = reinterpret_cast<const Var*>(test->arg);
    if (column->varattno <= 0)
        return false;
    *holds = slot_attisnull(slot, column->varattno) == (test->nulltesttype == IS_NULL);
    return true;
}

// Like CatalogIndexInsert, but also for indexes that an administrator has added.
void insert_index_entries(KeyedTable& keyed, bool only_summarizing) {
    EState* estate = nullptr;
    ListCell* cell;
    List* indexes = RelationGetIndexList(keyed.table);
    foreach (cell, indexes) {
        Relation index = index_open(lfirst_oid(cell), RowExclusiveLock);
        if (index->rd_index->indisready) {
            IndexInfo* info = BuildIndexInfo(index);
#if PG_VERSION_NUM >= 160000
            bool wanted = !only_summarizing || info->ii_Summarizing;
#else
            bool wanted = !only_summarizing;
#endif
            bool predicate_holds = true;
            const bool answered = info->ii_Predicate == NIL ||
                                  is_null_test(info->ii_Predicate, keyed.slot, &predicate_holds);
            wanted = wanted && predicate_holds;
            if (wanted && (info->ii_Expressions != NIL || !answered)) {
                if (estate == nullptr) {
                    estate = CreateExecutorState();
                    GetPerTupleExprContext(estate)->ecxt_scantuple = keyed.slot;
                }
                if (!answered)
                    wanted = ExecQual(ExecPrepareQual(info->ii_Predicate, estate),
                                      GetPerTupleExprContext(estate));
            }
            if (wanted) {
                Datum values[INDEX_MAX_KEYS];
                bool nulls[INDEX_MAX_KEYS];
                FormIndexDatum(info, keyed.slot, estate, values, nulls);
                index_insert(index, values, nulls, &keyed.slot->tts_tid, keyed.table,
                             index->rd_index->indisunique ? UNIQUE_CHECK_YES : UNIQUE_CHECK_NO,
                             false, info);
            }
#if PG_VERSION_NUM >= 170000
            index_insert_cleanup(index, info);
#endif
        }
        index_close(index, NoLock);
    }
    if (estate != nullptr)
        FreeExecutorState(estate);
    list_free(indexes);
}

}  // namespace

bool open_keyed_table(KeyedTable& keyed, Oid table, LOCKMODE lock) {
    if (!ConditionalLockRelationOid(table, lock))
        return false;
    keyed.table = try_relation_open(table, NoLock);
    if (keyed.table == nullptr)
        return false;
    const Oid key_index = primary_key_of(keyed.table);
    if (!OidIsValid(key_index))
        elog(ERROR, "table \"%s\" has no primary key", RelationGetRelationName(keyed.table));
    // Whoever would lock the index against us locks the table first.
    keyed.key_index = index_open(key_index, lock);
    keyed.slot = table_slot_create(keyed.table, nullptr);
    return true;
}

void close_keyed_table(KeyedTable& keyed) {
    if (keyed.table == nullptr)
        return;
    ExecDropSingleTupleTableSlot(keyed.slot);
    index_close(keyed.key_index, NoLock);
    relation_close(keyed.table, NoLock);
    keyed = KeyedTable{};
}

Lookup lock_row(KeyedTable& keyed, const Datum* key) {
    return look_up_live(keyed, key, true);
}

// A scan under SnapshotDirty reads the index first and the rows then, so it misses a row that moves
// in between. Here no version is passed over: each is followed to where it went.
Lookup lock_row_for_sure(KeyedTable& keyed, const Datum* key) {
    ScanKeyData scan_keys[kMaxKeyColumns];
    IndexScanDesc scan = begin_key_scan(keyed, SnapshotAny, key, scan_keys);
    Lookup result = Lookup::Missing;
    while (result == Lookup::Missing &&
           index_getnext_slot(scan, ForwardScanDirection, keyed.slot)) {
        switch (lock_version(keyed, TUPLE_LOCK_FLAG_FIND_LAST_VERSION)) {
            case TM_Ok:
                result = Lookup::Found;
                break;
            case TM_Deleted:
                break;
            case TM_Invisible:
                if (!is_void(keyed.slot))
                    result = Lookup::Busy;
                break;
            default:
                result = Lookup::Busy;
                break;
        }
    }
    index_endscan(scan);
    return result;
}

Lookup peek_row(KeyedTable& keyed, const Datum* key) {
    return look_up_live(keyed, key, false);
}

void insert_row(KeyedTable& keyed, const Datum* values, const bool* nulls) {
    HeapTuple tuple = heap_form_tuple(RelationGetDescr(keyed.table), const_cast<Datum*>(values),
                                      const_cast<bool*>(nulls));
    ExecForceStoreHeapTuple(tuple, keyed.slot, true);
    table_tuple_insert(keyed.table, keyed.slot, GetCurrentCommandId(true), 0, nullptr);
    insert_index_entries(keyed, false);
    CommandCounterIncrement();
}

void update_row(KeyedTable& keyed, const Datum* values, const bool* nulls, const bool* replace) {
    ItemPointerData tid = keyed.slot->tts_tid;
    bool should_free = false;
    HeapTuple old_tuple = ExecFetchSlotHeapTuple(keyed.slot, false, &should_free);
    HeapTuple tuple =
        heap_modify_tuple(old_tuple, RelationGetDescr(keyed.table), const_cast<Datum*>(values),
                          const_cast<bool*>(nulls), const_cast<bool*>(replace));
    if (should_free)
        heap_freetuple(old_tuple);
    ExecForceStoreHeapTuple(tuple, keyed.slot, true);

    TM_FailureData failure;
    LockTupleMode lock_mode;
#if PG_VERSION_NUM >= 160000
    TU_UpdateIndexes index_updates = TU_None;
#else
    bool index_updates = false;
#endif
    const TM_Result result =
        table_tuple_update(keyed.table, &tid, keyed.slot, GetCurrentCommandId(true), SnapshotAny,
                           InvalidSnapshot, true, &failure, &lock_mode, &index_updates);
    if (result != TM_Ok)
        elog(ERROR, "locked row of \"%s\" changed under us (%d)",
             RelationGetRelationName(keyed.table), static_cast<int>(result));
#if PG_VERSION_NUM >= 160000
    if (index_updates != TU_None)
        insert_index_entries(keyed, index_updates == TU_Summarizing);
#else
    if (index_updates)
        insert_index_entries(keyed, false);
#endif
    CommandCounterIncrement();
}

void delete_row(KeyedTable& keyed) {
    TM_FailureData failure;
    const TM_Result result =
        table_tuple_delete(keyed.table, &keyed.slot->tts_tid, GetCurrentCommandId(true),
                           SnapshotAny, InvalidSnapshot, true, &failure, false);
    if (result != TM_Ok)
        elog(ERROR, "locked row of \"%s\" changed under us (%d)",
             RelationGetRelationName(keyed.table), static_cast<int>(result));
    CommandCounterIncrement();
}

}  // namespace mana_ai::pg
