#include "mana_ai/pg/keyed_table.hpp"

#include "mana_ai/pg/compat.hpp"
#include "mana_ai/pg/relation_changes.hpp"

extern "C" {
#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/relscan.h"
#include "access/tableam.h"
#include "access/transam.h"
#include "access/xact.h"
#include "catalog/index.h"
#include "catalog/pg_am_d.h"
#include "catalog/pg_class.h"
#include "catalog/pg_index.h"
#include "catalog/pg_type_d.h"
#include "executor/executor.h"
#include "executor/nodeModifyTable.h"
#include "miscadmin.h"
#include "nodes/execnodes.h"
#include "nodes/makefuncs.h"
#include "nodes/nodes.h"
#include "nodes/primnodes.h"
#include "optimizer/optimizer.h"
#include "rewrite/rewriteHandler.h"
#include "storage/lmgr.h"
#include "storage/procarray.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
}

namespace mana_ai::pg {

namespace {

IndexScanDesc begin_key_scan(KeyedTable& keyed, Snapshot snapshot, const Datum* key, int columns,
                             ScanKeyData* scan_keys) {
    for (int i = 0; i < columns; i++)
        ScanKeyEntryInitialize(&scan_keys[i], 0, static_cast<AttrNumber>(i + 1),
                               BTEqualStrategyNumber, InvalidOid,
                               keyed.key_index->rd_indcollation[i], F_TEXTEQ, key[i]);
    IndexScanDesc scan = compat::begin_index_scan(keyed.table, keyed.key_index, snapshot, columns);
    index_rescan(scan, scan_keys, columns, nullptr, 0);
    return scan;
}

TM_Result lock_version(KeyedTable& keyed, uint8 flags, LockTupleMode mode = LockTupleExclusive) {
    ItemPointerData tid = keyed.slot->tts_tid;
    TM_FailureData failure;
    return table_tuple_lock(keyed.table, &tid, SnapshotAny, keyed.slot, GetCurrentCommandId(false),
                            mode, LockWaitSkip, flags, &failure);
}

// Whether a version that cannot be locked because it is invisible is dead: a transaction that
// rolled back has made it, or our own has replaced or deleted it.
bool is_void(TupleTableSlot* slot) {
    HeapTupleHeader row = reinterpret_cast<HeapTupleTableSlot*>(slot)->tuple->t_data;
    const TransactionId maker = HeapTupleHeaderGetXmin(row);
    if (TransactionIdIsCurrentTransactionId(maker) ||
        (!TransactionIdIsInProgress(maker) && !TransactionIdDidCommit(maker)))
        return true;
    return (row->t_infomask & HEAP_XMAX_INVALID) == 0 &&
           !HEAP_XMAX_IS_LOCKED_ONLY(row->t_infomask) &&
           TransactionIdIsCurrentTransactionId(HeapTupleHeaderGetUpdateXid(row));
}

// Determined without evaluating anything, unlike RelationGetIndexExpressions().
bool has_predicate(Relation index) {
    return !heap_attisnull(index->rd_indextuple, Anum_pg_index_indpred, nullptr);
}
bool has_expressions(Relation index) {
    return !heap_attisnull(index->rd_indextuple, Anum_pg_index_indexprs, nullptr);
}

// A predicate of the form "column IS [NOT] NULL", as in our own partial indexes, is evaluated
// without an executor. Cached until an index changes.
struct NullTestIndex {
    Oid index = InvalidOid;
    AttrNumber column = InvalidAttrNumber;  // none: it is another predicate
    bool wants_null = false;
};
constexpr int kRememberedIndexes = 8;
NullTestIndex remembered_indexes[kRememberedIndexes];
int next_index_to_forget = 0;

NullTestIndex read_null_test(Relation index) {
    NullTestIndex found{RelationGetRelid(index), InvalidAttrNumber, false};
    bool is_null = false;
    const Datum stored =
        SysCacheGetAttr(INDEXRELID, index->rd_indextuple, Anum_pg_index_indpred, &is_null);
    if (is_null)
        return found;
    const Node* node = static_cast<Node*>(stringToNode(TextDatumGetCString(stored)));
    if (IsA(node, List) && list_length(reinterpret_cast<const List*>(node)) == 1)
        node = static_cast<Node*>(linitial(reinterpret_cast<const List*>(node)));
    const auto* test = reinterpret_cast<const NullTest*>(node);
    if (!IsA(node, NullTest) || test->argisrow || !IsA(test->arg, Var))
        return found;
    const auto* column = reinterpret_cast<const Var*>(test->arg);
    if (column->varattno > 0) {
        found.column = column->varattno;
        found.wants_null = test->nulltesttype == IS_NULL;
    }
    return found;
}

NullTestIndex null_test_of(Relation index) {
    for (const NullTestIndex& known : remembered_indexes)
        if (known.index == RelationGetRelid(index))
            return known;
    const NullTestIndex found = read_null_test(index);
    remembered_indexes[next_index_to_forget++ % kRememberedIndexes] = found;
    return found;
}

// Whether an administrator's code decides what goes into the index.
bool needs_evaluation(Relation index) {
    return has_expressions(index) ||
           (has_predicate(index) && null_test_of(index).column == InvalidAttrNumber);
}

// Whether looking up `key` in the index finds rows by equality of text.
bool serves_key(Relation index, const TableKey& key) {
    const Form_pg_index form = index->rd_index;
    if (index->rd_rel->relam != BTREE_AM_OID || !form->indisvalid || !form->indislive ||
        IndexRelationGetNumberOfKeyAttributes(index) < key.count || has_predicate(index) ||
        has_expressions(index))
        return false;
    for (int i = 0; i < key.count; i++)
        if (form->indkey.values[i] != key.columns[i] || index->rd_opcintype[i] != TEXTOID)
            return false;
    return true;
}

// Facts about a table, cached until it changes.
struct TableFacts {
    Oid table = InvalidOid;
    Oid key_index = InvalidOid;
    bool has_additions = false;
};
constexpr int kRememberedTables = 8;
TableFacts remembered[kRememberedTables];
int next_to_forget = 0;

extern "C" {
static void forget_table(Oid relation) {
    for (TableFacts& facts : remembered)
        if (!OidIsValid(relation) || facts.table == relation)
            facts = TableFacts{};
    for (NullTestIndex& known : remembered_indexes)
        if (!OidIsValid(relation) || known.index == relation)
            known = NullTestIndex{};
}
}

bool may_be_null(const FormData_pg_attribute* column, uint64_t never_null) {
    const int place = column->attnum - 1;
    return place >= 64 || (never_null >> place & 1) == 0;
}

// Whether updates of the table may fail because of a publication: without a usable replica
// identity, or with a row filter or column list that names other columns.
bool may_fail_as_published(Relation table) {
    return table->rd_rel->relreplident != REPLICA_IDENTITY_DEFAULT ||
           !OidIsValid(RelationGetReplicaIndex(table)) ||
           !compat::publications_allow_changes(table);
}

// Whether an entry may be too large for the index, by its columns of variable size.
bool may_not_fit(Relation index, const TableKey& key) {
    const Form_pg_index form = index->rd_index;
    for (int i = 0; i < form->indnatts; i++) {
        const AttrNumber column = form->indkey.values[i];
        bool is_short =
            TupleDescAttr(RelationGetDescr(index), i)->attlen > 0 || column == key.short_text;
        for (int k = 0; k < key.count; k++)
            is_short |= column == key.columns[k];
        if (!is_short)
            return true;
    }
    return false;
}

TableFacts read_facts(Relation table, const TableKey& key) {
    TableFacts facts;
    facts.table = RelationGetRelid(table);
    const TupleConstr* rules = RelationGetDescr(table)->constr;
    facts.has_additions =
        (rules != nullptr && (rules->num_check > 0 || rules->has_generated_stored)) ||
        may_fail_as_published(table);
    for (int i = 0; i < RelationGetNumberOfAttributes(table); i++) {
        const FormData_pg_attribute* column = TupleDescAttr(RelationGetDescr(table), i);
        // A default is evaluated for a column without a given value.
        if (!column->attisdropped && may_be_null(column, key.never_null) &&
            (column->attnotnull || column->atthasdef || column->attidentity != '\0'))
            facts.has_additions = true;
    }
    List* indexes = RelationGetIndexList(table);
    ListCell* cell;
    foreach (cell, indexes) {
        Relation index = index_open(lfirst_oid(cell), AccessShareLock);
        if (!OidIsValid(facts.key_index) && serves_key(index, key))
            facts.key_index = RelationGetRelid(index);
        const Form_pg_index form = index->rd_index;
        if (form->indisexclusion || (form->indisunique && !form->indisprimary) ||
            needs_evaluation(index) || may_not_fit(index, key))
            facts.has_additions = true;
        index_close(index, AccessShareLock);
    }
    list_free(indexes);
    return facts;
}

const TableFacts& facts_of(Relation table, const TableKey& key) {
    for (const TableFacts& facts : remembered)
        if (facts.table == RelationGetRelid(table))
            return facts;
    on_relation_change(forget_table);
    static TableFacts unstable;
    const uint64_t before = relation_changes();
    unstable = read_facts(table, key);
    if (before != relation_changes())
        return unstable;
    TableFacts& place = remembered[next_to_forget++ % kRememberedTables];
    place = unstable;
    return place;
}
// Runs f, which evaluates expressions of the table, with its owner's privileges and without the
// session's search_path. An error of f rolls back at least a subtransaction, which also restores
// role and settings.
template <class F>
void as_owner(Relation table, F&& f) {
    Oid role = InvalidOid;
    int context = 0;
    GetUserIdAndSecContext(&role, &context);
    SetUserIdAndSecContext(table->rd_rel->relowner, context | SECURITY_RESTRICTED_OPERATION);
    const int settings = NewGUCNestLevel();
    set_config_option("search_path", "pg_catalog, pg_temp", PGC_USERSET, PGC_S_SESSION,
                      GUC_ACTION_SAVE, true, 0, false);
    f();
    AtEOXact_GUC(false, settings);
    SetUserIdAndSecContext(role, context);
}

void fill_defaults(Relation table, const RowValues& row) {
    const TupleDesc descriptor = RelationGetDescr(table);
    EState* estate = nullptr;
    for (int i = 0; i < descriptor->natts; i++) {
        const FormData_pg_attribute* column = TupleDescAttr(descriptor, i);
        if (row.given[i] || column->attisdropped || column->attgenerated != '\0' ||
            (!column->atthasdef && column->attidentity == '\0'))
            continue;
        if (estate == nullptr)
            estate = CreateExecutorState();
        as_owner(table, [&] {
            Node* expression = build_column_default(table, i + 1);
            if (expression == nullptr)
                return;
            ExprState* state =
                ExecInitExpr(expression_planner(reinterpret_cast<Expr*>(expression)), nullptr);
            const Datum value = ExecEvalExpr(state, GetPerTupleExprContext(estate), &row.nulls[i]);
            if (!row.nulls[i])
                row.values[i] = datumCopy(value, column->attbyval, column->attlen);
        });
    }
    if (estate != nullptr)
        FreeExecutorState(estate);
}

bool has_missing_value(Relation table, const bool* nulls) {
    const TupleDesc descriptor = RelationGetDescr(table);
    for (int i = 0; i < descriptor->natts; i++)
        if (nulls[i] && TupleDescAttr(descriptor, i)->attnotnull)
            return true;
    return false;
}

// The executor's own checks of the row in the slot, which they may change (generated columns). They
// need a range table with the table.
void check_with_executor(KeyedTable& keyed) {
    EState* estate = CreateExecutorState();
    RangeTblEntry* entry = makeNode(RangeTblEntry);
    entry->rtekind = RTE_RELATION;
    entry->relid = RelationGetRelid(keyed.table);
    entry->relkind = keyed.table->rd_rel->relkind;
    entry->rellockmode = RowExclusiveLock;
    compat::init_range_table(estate, entry);
    ResultRelInfo* result = makeNode(ResultRelInfo);
    InitResultRelInfo(result, keyed.table, 1, nullptr, 0);
    as_owner(keyed.table, [&] {
        // As for an insert, which computes them all.
        if (RelationGetDescr(keyed.table)->constr->has_generated_stored)
            ExecComputeStoredGenerated(result, estate, keyed.slot, CMD_INSERT);
        ExecConstraints(result, keyed.slot, estate);
    });
    FreeExecutorState(estate);
}

// Puts the row, of which every value is given or filled in, into the slot.
void store_row(KeyedTable& keyed, const RowValues& row) {
    HeapTuple tuple = heap_form_tuple(RelationGetDescr(keyed.table), row.values, row.nulls);
    ExecForceStoreHeapTuple(tuple, keyed.slot, true);
    const TupleConstr* rules = RelationGetDescr(keyed.table)->constr;
    if (rules != nullptr && (rules->num_check > 0 || rules->has_generated_stored ||
                             has_missing_value(keyed.table, row.nulls)))
        check_with_executor(keyed);
}

// Whether an update leaves the columns of the index as they were; `given` is null for a new row.
bool is_unchanged(const IndexInfo* info, const bool* given) {
    if (given == nullptr || info->ii_Expressions != NIL)
        return false;
    for (int i = 0; i < info->ii_NumIndexKeyAttrs; i++)
        if (given[info->ii_IndexAttrNumbers[i] - 1])
            return false;
    return true;
}

// `estate` is null where nothing needs an executor.
void insert_index_entry(KeyedTable& keyed, Relation index, EState* estate, const bool* given,
                        bool only_summarizing) {
    IndexInfo* info = BuildIndexInfo(index);
    if (only_summarizing && !compat::is_summarizing(info))
        return;
    if (estate != nullptr && info->ii_Predicate != NIL &&
        !ExecQual(ExecPrepareQual(info->ii_Predicate, estate), GetPerTupleExprContext(estate)))
        return;
    Datum values[INDEX_MAX_KEYS];
    bool nulls[INDEX_MAX_KEYS];
    FormIndexDatum(info, keyed.slot, estate, values, nulls);
    // UNIQUE_CHECK_PARTIAL does not wait for a transaction that may commit the same value. Of two
    // concurrent inserts of one value, the later one sees the other's.
    const bool unique = index->rd_index->indisunique;
    const bool inserted = index_insert(index, values, nulls, &keyed.slot->tts_tid, keyed.table,
                                       unique ? UNIQUE_CHECK_PARTIAL : UNIQUE_CHECK_NO,
                                       is_unchanged(info, given), info);
    if (unique && !inserted)
        ereport(ERROR, (errcode(ERRCODE_UNIQUE_VIOLATION),
                        errmsg("duplicate key value violates unique constraint \"%s\"",
                               RelationGetRelationName(index))));
    compat::clean_up_index_insert(index, info);
}

bool is_wanted_by(Relation index, TupleTableSlot* slot) {
    if (!has_predicate(index))
        return true;
    const NullTestIndex test = null_test_of(index);
    return slot_attisnull(slot, test.column) == test.wants_null;
}

// Includes indexes that an administrator has added.
void insert_index_entries(KeyedTable& keyed, const bool* given, bool only_summarizing) {
    ListCell* cell;
    List* indexes = RelationGetIndexList(keyed.table);
    foreach (cell, indexes) {
        Relation index = index_open(lfirst_oid(cell), RowExclusiveLock);
        if (index->rd_index->indisexclusion)
            ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
                            errmsg("table \"%s\" has an exclusion constraint",
                                   RelationGetRelationName(keyed.table))));
        if (index->rd_index->indisready && needs_evaluation(index)) {
            EState* estate = CreateExecutorState();
            GetPerTupleExprContext(estate)->ecxt_scantuple = keyed.slot;
            as_owner(keyed.table,
                     [&] { insert_index_entry(keyed, index, estate, given, only_summarizing); });
            FreeExecutorState(estate);
        } else if (index->rd_index->indisready && is_wanted_by(index, keyed.slot)) {
            insert_index_entry(keyed, index, nullptr, given, only_summarizing);
        }
        index_close(index, NoLock);
    }
    list_free(indexes);
}

// Writes a new version of the row in the slot. A row that we have locked counts as being modified,
// unless the update may wait, which it never has to in this case.
TM_Result replace_row(KeyedTable& keyed, const RowValues& row, bool is_locked) {
    CheckCmdReplicaIdentity(keyed.table, CMD_UPDATE);
    ItemPointerData tid = keyed.slot->tts_tid;
    slot_getallattrs(keyed.slot);
    for (int i = 0; i < RelationGetNumberOfAttributes(keyed.table); i++) {
        if (row.given[i])
            continue;
        row.values[i] = keyed.slot->tts_values[i];
        row.nulls[i] = keyed.slot->tts_isnull[i];
    }
    store_row(keyed, row);

    TM_FailureData failure;
    compat::IndexUpdates indexes;
    const TM_Result result =
        compat::update_tuple(keyed.table, &tid, keyed.slot, is_locked, &failure, &indexes);
    if (result != TM_Ok)
        return result;
    if (indexes.any)
        insert_index_entries(keyed, row.given, indexes.only_summarizing);
    CommandCounterIncrement();
    return result;
}

}  // namespace

bool try_lock_table(Oid table) {
    return ConditionalLockRelationOid(table, RowExclusiveLock);
}

bool open_keyed_table(KeyedTable& keyed, const TableKey& key) {
    keyed.table = try_relation_open(key.table, NoLock);
    if (keyed.table == nullptr)
        return false;
    if (keyed.table->rd_rel->relkind != RELKIND_RELATION ||
        keyed.table->rd_rel->relam != HEAP_TABLE_AM_OID)
        ereport(ERROR,
                (errcode(ERRCODE_WRONG_OBJECT_TYPE),
                 errmsg("\"%s\" is not an ordinary table", RelationGetRelationName(keyed.table))));
    const TableFacts& facts = facts_of(keyed.table, key);
    if (!OidIsValid(facts.key_index))
        ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
                        errmsg("table \"%s\" has no index on its key",
                               RelationGetRelationName(keyed.table))));
    keyed.key_columns = key.count;
    keyed.has_additions = facts.has_additions;
    // A conflicting lock on the index would require one on the table first.
    keyed.key_index = index_open(facts.key_index, RowExclusiveLock);
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

Lookup peek_row(KeyedTable& keyed, const Datum* key) {
    SnapshotData dirty;
    InitDirtySnapshot(dirty);
    ScanKeyData scan_keys[kMaxKeyColumns];
    IndexScanDesc scan = begin_key_scan(keyed, &dirty, key, keyed.key_columns, scan_keys);
    Lookup result = Lookup::Missing;
    // An open transaction that is not ours may have made the version, or be replacing it.
    if (index_getnext_slot(scan, ForwardScanDirection, keyed.slot))
        result = TransactionIdIsValid(dirty.xmin) || TransactionIdIsValid(dirty.xmax)
                     ? Lookup::Busy
                     : Lookup::Found;
    index_endscan(scan);
    return result;
}

// A scan under SnapshotDirty reads the index first and then the rows, so it misses a row that moves
// in between. Here no version is skipped: each is followed to its successor.
Lookup lock_row_for_sure(KeyedTable& keyed, const Datum* key) {
    ScanKeyData scan_keys[kMaxKeyColumns];
    IndexScanDesc scan = begin_key_scan(keyed, SnapshotAny, key, keyed.key_columns, scan_keys);
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

bool hold_any_row(KeyedTable& keyed, const Datum* key) {
    SnapshotData dirty;
    InitDirtySnapshot(dirty);
    ScanKeyData scan_keys[kMaxKeyColumns];
    IndexScanDesc scan = begin_key_scan(keyed, &dirty, key, keyed.key_columns, scan_keys);
    bool held = false;
    while (!held && index_getnext_slot(scan, ForwardScanDirection, keyed.slot))
        held = !TransactionIdIsValid(dirty.xmin) && !TransactionIdIsValid(dirty.xmax) &&
               lock_version(keyed, 0, LockTupleKeyShare) == TM_Ok;
    index_endscan(scan);
    return held;
}

int count_rows(KeyedTable& keyed, const Datum* key, int columns, int limit) {
    SnapshotData dirty;
    InitDirtySnapshot(dirty);
    ScanKeyData scan_keys[kMaxKeyColumns];
    IndexScanDesc scan = begin_key_scan(keyed, &dirty, key, columns, scan_keys);
    int count = 0;
    while (count < limit && index_getnext_slot(scan, ForwardScanDirection, keyed.slot))
        count++;
    index_endscan(scan);
    return count;
}

RowValues row_values(Relation table) {
    const int count = RelationGetDescr(table)->natts;
    RowValues row{static_cast<Datum*>(palloc0(sizeof(Datum) * count)),
                  static_cast<bool*>(palloc(count)), static_cast<bool*>(palloc0(count))};
    memset(row.nulls, 1, count);
    return row;
}

void give(RowValues& row, AttrNumber column, Datum value, bool present) {
    row.values[column - 1] = value;
    row.nulls[column - 1] = !present;
    row.given[column - 1] = true;
}

void insert_row(KeyedTable& keyed, const RowValues& row) {
    fill_defaults(keyed.table, row);
    store_row(keyed, row);
    table_tuple_insert(keyed.table, keyed.slot, GetCurrentCommandId(true), 0, nullptr);
    insert_index_entries(keyed, nullptr, false);
    CommandCounterIncrement();
}

bool lock_seen_row(KeyedTable& keyed) {
    return lock_version(keyed, 0) == TM_Ok;
}

bool may_be_locked(const KeyedTable& keyed) {
    HeapTupleHeader row = reinterpret_cast<HeapTupleTableSlot*>(keyed.slot)->tuple->t_data;
    return (row->t_infomask & HEAP_XMAX_INVALID) == 0;
}

bool try_update_row(KeyedTable& keyed, const RowValues& row) {
    const bool lock = may_be_locked(keyed);
    if (lock && !lock_seen_row(keyed))
        return false;
    return replace_row(keyed, row, lock) == TM_Ok;
}

void update_row(KeyedTable& keyed, const RowValues& row) {
    const TM_Result result = replace_row(keyed, row, true);
    if (result != TM_Ok)
        elog(ERROR, "locked row of \"%s\" changed under us (%d)",
             RelationGetRelationName(keyed.table), static_cast<int>(result));
}

void delete_row(KeyedTable& keyed) {
    CheckCmdReplicaIdentity(keyed.table, CMD_DELETE);
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
