#include "mana_ai/extension/sync/backfill.hpp"

#include <algorithm>
#include <functional>
#include <string>

#include "mana_ai/core/record/clock_table.hpp"
#include "mana_ai/extension/sync/dirty_records.hpp"
#include "mana_ai/extension/sync/fold_batches.hpp"
#include "mana_ai/extension/sync/own_tables.hpp"
#include "mana_ai/extension/sync/sorted_log.hpp"
#include "mana_ai/extension/sync/sync_table.hpp"
#include "mana_ai/pg/failpoint.hpp"
#include "mana_ai/pg/function_call.hpp"
#include "mana_ai/pg/guard.hpp"
#include "mana_ai/pg/log.hpp"
#include "mana_ai/pg/metrics.hpp"
#include "mana_ai/pg/record_lock.hpp"
#include "mana_ai/pg/shared_state.hpp"
#include "mana_ai/pg/spi.hpp"
#include "mana_ai/pg/subtransaction.hpp"
#include "mana_ai/pg/text.hpp"
#include "mana_ai/pg/wake.hpp"

extern "C" {
#include "access/relation.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/visibilitymap.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "storage/lockdefs.h"
#include "storage/proc.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"
}

namespace mana_ai {

namespace {

constexpr uint64_t kRefreshLock = 0;  // hash under which two refreshes exclude each other

// A committed row that the MVCC snapshot did not see.
bool is_newer_than(TupleTableSlot* slot, Snapshot snapshot) {
    bool is_null = false;
    const TransactionId writer =
        DatumGetTransactionId(slot_getsysattr(slot, MinTransactionIdAttributeNumber, &is_null));
    return TransactionIdIsNormal(writer) && XidInMVCCSnapshot(writer, snapshot);
}

void catch_up_with_row(SnapshotStore& store, TupleTableSlot* slot, FoldCounts& counts) {
    const SyncShape& shape = *store.shape;
    RecordName name{};
    bool user_is_null = false;
    bool record_is_null = false;
    bool table_is_null = false;
    name.key.user_id = slot_getattr(slot, shape.user_id, &user_is_null);
    name.key.record_id = slot_getattr(slot, shape.record_id, &record_is_null);
    name.key.table_name = slot_getattr(slot, shape.table_name, &table_is_null);
    if (user_is_null || record_is_null || table_is_null)
        return;
    if (!kind_of_table(pg::text_view(name.key.table_name), &name.kind))
        return;
    counts.rows_applied++;
    if (!ids_fit(name.key)) {
        mark_dirty(name.key, "ids too long");
        return;
    }
    const Kept kept = keep_record(store, name, nullptr, ScanLimit::None);
    if (kept == Kept::Created)
        counts.new_snapshots++;
    else if (kept == Kept::Changed)
        counts.updated_snapshots++;
    else if (kept != Kept::Unchanged)
        mark_dirty(name.key, "busy");
}

// The next blocks, from `first` on, that may contain such rows. An all-visible page cannot: our
// own, older MVCC snapshot prevents pages with younger rows from being marked so.
bool next_young_blocks(Relation leaf, BlockNumber first, BlockNumber end, Buffer* map,
                       ItemPointer low, ItemPointer high) {
    auto is_old = [&](BlockNumber block) {
        return (visibilitymap_get_status(leaf, block, map) & VISIBILITYMAP_ALL_VISIBLE) != 0;
    };
    while (first < end && is_old(first))
        first++;
    if (first >= end)
        return false;
    BlockNumber last = first;
    while (last + 1 < end && !is_old(last + 1))
        last++;
    ItemPointerSet(low, first, FirstOffsetNumber);
    ItemPointerSet(high, last, MaxOffsetNumber);
    return true;
}

}  // namespace

void serialize_folds() {
    pg::lock_name_and_wait(kRefreshLock);
}

bool try_to_serialize_folds() {
    return pg::try_lock_name(kRefreshLock);
}

// Waits for the lock of a leaf, without being in the way of those who wait for others. As long as
// the session waits for locks.
LeafOpened open_leaf_patiently(Oid leaf, LeavesInUse& in_use, Relation* relation) {
    constexpr int kPauseMs = 10;
    for (int waited = 0;; waited += kPauseMs) {
        const LeafOpened opened = open_leaf(leaf, false, relation);
        if (opened != LeafOpened::Busy)
            return opened;
        if (LockTimeout > 0 && waited >= LockTimeout)
            ereport(ERROR, (errcode(ERRCODE_LOCK_NOT_AVAILABLE),
                            errmsg("canceling statement due to lock timeout")));
        look_for_waiters(in_use);
        pg::sleep_and_check_interrupts(kPauseMs);
    }
}

OpenLeaves open_leaves(List* leaves) {
    OpenLeaves open;
    open.relations = static_cast<Relation*>(palloc(sizeof(Relation) * (list_length(leaves) + 1)));
    ListCell* cell;
    foreach (cell, leaves) {
        if (open_leaf_patiently(lfirst_oid(cell), open.in_use, &open.relations[open.count]) !=
            LeafOpened::Opened)
            continue;
        open.count++;
        open.in_use.leaves = lappend_oid(open.in_use.leaves, lfirst_oid(cell));
    }
    return open;
}

void close_leaves(const OpenLeaves& leaves) {
    for (int i = 0; i < leaves.count; i++)
        close_leaf(leaves.relations[i]);
}

FoldCounts fold_history(Oid log, OpenLeaves& leaves, Snapshot snapshot, Basis basis) {
    MANA_AI_FAILPOINT("fold.begin");
    FoldCounts counts;
    HistoryFold fold(log, leaves.in_use, {.basis = basis}, counts);
    pg::guarded([&] {
        PushActiveSnapshot(snapshot);  // values out of line are read long after the scan
        SortedLog sorted;
        sorted.begin();
        for (int i = 0; i < leaves.count; i++)
            sorted.add_rows(leaves.relations[i], leaves.in_use, snapshot);
        if (basis == Basis::Nothing)
            sorted.add_held_records(snapshot);
        sorted.sort();
        fold.add_all(sorted);
        sorted.end();
        PopActiveSnapshot();
    });
    MANA_AI_FAILPOINT("fold.folded");
    return counts;
}

void catch_up(Relation leaf, Snapshot snapshot, FoldCounts& counts) {
    pg::guarded([&] {
        SnapshotStore store;
        open_store(store, leaf);
        CommandCounterIncrement();
        Snapshot now = RegisterSnapshot(GetLatestSnapshot());
        TupleTableSlot* slot = table_slot_create(leaf, nullptr);
        MemoryContext context =
            AllocSetContextCreate(CurrentMemoryContext, "mana_ai catch-up", ALLOCSET_DEFAULT_SIZES);
        const BlockNumber end = RelationGetNumberOfBlocks(leaf);
        Buffer map = InvalidBuffer;
        ItemPointerData low;
        ItemPointerData high;
        for (BlockNumber first = 0; next_young_blocks(leaf, first, end, &map, &low, &high);
             first = ItemPointerGetBlockNumber(&high) + 1) {
            TableScanDesc scan = table_beginscan_tidrange(leaf, now, &low, &high);
            while (table_scan_getnextslot_tidrange(scan, ForwardScanDirection, slot)) {
                CHECK_FOR_INTERRUPTS();
                if (!is_newer_than(slot, snapshot) ||
                    !is_column_text(slot, store.shape->app_id, "ai"))
                    continue;
                MemoryContext outer = MemoryContextSwitchTo(context);
                catch_up_with_row(store, slot, counts);
                MemoryContextSwitchTo(outer);
                MemoryContextReset(context);
            }
            table_endscan(scan);
        }
        if (BufferIsValid(map))
            ReleaseBuffer(map);
        ExecDropSingleTupleTableSlot(slot);
        UnregisterSnapshot(now);
        MemoryContextDelete(context);
        close_store(store);
    });
}

void count_fold(const FoldCounts& counts) {
    using pg::metrics::count_at_commit;
    count_at_commit(core::Metric::SnapshotsNew, {}, counts.new_snapshots);
    count_at_commit(core::Metric::SnapshotsUpdated, {}, counts.updated_snapshots);
    count_at_commit(core::Metric::SnapshotRowsApplied, {}, counts.rows_applied);
}

void remember_folded(Oid log, const std::vector<LeafFacts>& leaves) {
    remember_folded_leaves(leaves);
    static pg::Statement remember(R"sql(
INSERT INTO mana_ai.folded_log AS f (log) VALUES ($1::oid)
    ON CONFLICT (only_row) DO UPDATE SET log = $1::oid, folded_at = clock_timestamp())sql");
    remember.execute({int64_t{log}});
    const bool has_name = pg::guarded([] {
        const Oid table = get_relname_relid("folded_log", get_namespace_oid("mana_ai", false));
        return get_attnum(table, "log_name") != InvalidAttrNumber;
    });
    if (!has_name)
        return;  // installed as version 0.1.0
    static pg::Statement remember_name(R"sql(
UPDATE mana_ai.folded_log f SET log_name = pg_catalog.format('%I.%I', n.nspname, c.relname)
  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE c.oid = f.log)sql");
    remember_name.execute();
}

namespace {

// Whether a field may have another value now that rows have changed places; true for damaged
// clocks.
bool may_have_ties(Datum clocks) {
    constexpr int kHead = core::kClockFlagsByte + 1;
    const bytea* head = DatumGetByteaPSlice(clocks, 0, kHead);
    return VARSIZE_ANY_EXHDR(head) < kHead ||
           (VARDATA_ANY(head)[core::kClockFlagsByte] & core::kHasTie) != 0;
}

void mark_ties_of(const SnapshotTable& columns, const char* table_name) {
    Relation table = table_open(columns.key.table, AccessShareLock);
    Snapshot snapshot = RegisterSnapshot(GetLatestSnapshot());
    TupleTableSlot* slot = table_slot_create(table, nullptr);
    TableScanDesc scan = table_beginscan(table, snapshot, 0, nullptr);
    MemoryContext context =
        AllocSetContextCreate(CurrentMemoryContext, "mana_ai ties", ALLOCSET_SMALL_SIZES);
    MemoryContext outer = MemoryContextSwitchTo(context);
    while (table_scan_getnextslot(scan, ForwardScanDirection, slot)) {
        CHECK_FOR_INTERRUPTS();
        bool is_null = false;
        const Datum clocks = slot_getattr(slot, columns.clocks, &is_null);
        if (is_null || may_have_ties(clocks))
            mark_dirty(
                {slot_getattr(slot, columns.user_id, &is_null), CStringGetTextDatum(table_name),
                 slot_getattr(slot, columns.record_id, &is_null)},
                "the log was rewritten");
        MemoryContextReset(context);
    }
    MemoryContextSwitchTo(outer);
    MemoryContextDelete(context);
    table_endscan(scan);
    ExecDropSingleTupleTableSlot(slot);
    UnregisterSnapshot(snapshot);
    table_close(table, AccessShareLock);
}

void mark_ties() {
    pg::guarded([] {
        const OwnTables tables = own_tables();
        mark_ties_of(tables.missions, "aiMissions");
        mark_ties_of(tables.agents, "agents");
    });
}

FoldCounts fold_leaves(Oid log, Basis basis, const std::vector<Oid>* only);

// Somebody else may be folding, and an error of the fold must not prevent the rest.
bool try_to_fold(const std::function<void()>& fold) {
    static bool logged = false;
    const auto error = pg::in_subtransaction([&] {
        fold();
        return true;
    });
    if (error && !logged)
        pg::log_warning("the log could not be folded (SQLSTATE " + error->sqlstate_text() +
                        "); tried again at each full pass");
    logged = error.has_value();
    return !error;
}

void remember_generation(Oid log) {
    static pg::Statement remember("UPDATE mana_ai.folded_log SET generation = $1::oid");
    remember.execute({int64_t{pg::guarded([log] { return generation_of(log); })}});
}

void drop_leaves(std::vector<LeafFacts>& facts, const std::vector<Oid>& leaves) {
    std::erase_if(facts, [&](const LeafFacts& leaf) {
        return std::find(leaves.begin(), leaves.end(), leaf.leaf) != leaves.end();
    });
}

// Partitions come and go, and are rewritten.
void keep_up_with_leaves(Oid log) {
    std::vector<LeafFacts> now = leaves_now(log);
    drop_leaves(now, leaves_in_batches());
    const LeafChanges changes = compare_folded_leaves(now);
    if (!changes.to_fold.empty()) {
        if (should_fold_in_batches(log, changes.to_fold)) {
            if (!pg::guarded([] { return try_to_serialize_folds(); }))
                return;
            add_leaves_to_batches(log, changes.to_fold);
            drop_leaves(now, changes.to_fold);
        } else if (!try_to_fold([&] { fold_leaves(log, Basis::Held, &changes.to_fold); })) {
            return;
        }
    }
    if (changes.was_rewritten)
        mark_ties();
    if (changes.any)
        remember_folded_leaves(now);
}

}  // namespace

void keep_up_with_log() {
    // status() reports a log that cannot be read; it must not prevent the rest.
    struct Log {
        Oid oid;
        bool is_partitioned;
        uint32_t generation;
    };
    const Log log = pg::guarded([] {
        const Oid attached = attached_relation();
        Relation relation =
            OidIsValid(attached) ? try_relation_open(attached, AccessShareLock) : nullptr;
        if (relation == nullptr)
            return Log{};
        Log found{};
        if (log_problem(relation) == nullptr)
            found = {attached, relation->rd_rel->relkind == RELKIND_PARTITIONED_TABLE,
                     generation_of(attached)};
        relation_close(relation, AccessShareLock);
        return found;
    });
    if (!OidIsValid(log.oid))
        return;
    if (are_batches_abandoned()) {
        try_to_fold([] { refresh_snapshots(Basis::Held); });
        return;
    }
    static pg::Statement select_folded(R"sql(
SELECT generation IS NOT DISTINCT FROM $2::oid FROM mana_ai.folded_log WHERE log = $1::oid)sql");
    const auto folded = select_folded.execute({int64_t{log.oid}, int64_t{log.generation}}).rows;
    const auto unmarked = pg::shared_state::unmarked_changes(MyDatabaseId);
    // One that is under way may have passed the records of unmarked changes: they wait for the
    // next.
    if (folded.empty() || (unmarked && unmarked->waiting > 0 && leaves_in_batches().empty())) {
        const std::vector<Oid> leaves = oids_of_leaves(log.oid);
        if (!should_fold_in_batches(log.oid, leaves))
            try_to_fold([] { refresh_snapshots(Basis::Held); });
        else if (pg::guarded([] { return try_to_serialize_folds(); }))
            begin_batches(log.oid, folded.empty() ? LogIs::New : LogIs::Known);
        return;
    }
    if (log.is_partitioned)
        keep_up_with_leaves(log.oid);
    if (folded.front().number(0) == 0) {
        if (!log.is_partitioned)
            mark_ties();
        remember_generation(log.oid);
    }
}

bool begin_to_keep_up() {
    static pg::Statement find("SELECT 1 FROM mana_ai.folded_log WHERE NOT clean");
    static pg::Statement open("UPDATE mana_ai.folded_log SET clean = false WHERE clean");
    const bool was_clean = find.execute().rows.empty();
    open.execute();
    return was_clean;
}

void end_keeping_up() {
    const auto unmarked = pg::shared_state::unmarked_changes(MyDatabaseId);
    if (!unmarked || unmarked->waiting > 0)
        return;
    static pg::Statement close("UPDATE mana_ai.folded_log SET clean = true WHERE NOT clean");
    close.execute();
}

namespace {

// Folds the leaves in the list, or all of them.
FoldCounts fold_leaves(Oid log, Basis basis, const std::vector<Oid>* only) {
    struct Open {
        OpenLeaves leaves;
        Snapshot snapshot;
    };
    Open open = pg::guarded([&] {
        serialize_folds();
        List* leaves = NIL;
        if (only == nullptr)
            leaves = leaves_of(log);
        for (size_t i = 0; only != nullptr && i < only->size(); i++)
            leaves = lappend_oid(leaves, (*only)[i]);
        const OpenLeaves opened = open_leaves(leaves);
        CommandCounterIncrement();
        return Open{opened, RegisterSnapshot(GetLatestSnapshot())};
    });
    const FoldCounts counts = fold_history(log, open.leaves, open.snapshot, basis);
    count_fold(counts);
    pg::guarded([&open] {
        UnregisterSnapshot(open.snapshot);
        close_leaves(open.leaves);
        CommandCounterIncrement();
    });
    return counts;
}

}  // namespace

FoldCounts refresh_snapshots(Basis basis) {
    // The fold sees all changes that are missing now.
    const auto unmarked = pg::shared_state::unmarked_changes(MyDatabaseId);
    retry_oversized_records(SetAside::All);
    const Oid log = attached_sync_table().oid;
    const std::vector<LeafFacts> leaves = leaves_now(log);
    const FoldCounts counts = fold_leaves(log, basis, nullptr);
    repair_all_dirty_records();
    MANA_AI_FAILPOINT("fold.repaired");
    forget_batches();
    remember_folded(log, leaves);
    if (unmarked)
        settle_unmarked_at_commit(unmarked->seen);
    pg::wake_worker_at_commit();
    return counts;
}

}  // namespace mana_ai

extern "C" {

PG_FUNCTION_INFO_V1(mana_ai_refresh_snapshots);
PGDLLEXPORT Datum mana_ai_refresh_snapshots(PG_FUNCTION_ARGS) {
    using namespace mana_ai;
    return pg::entry_point([fcinfo] {
        const bool rebuild = PG_NARGS() > 0 && PG_GETARG_BOOL(0);
        const FoldCounts counts = refresh_snapshots(rebuild ? Basis::Nothing : Basis::Held);
        return pg::guarded([&] {
            Datum values[3] = {Int32GetDatum(static_cast<int32>(counts.new_snapshots)),
                               Int32GetDatum(static_cast<int32>(counts.updated_snapshots)),
                               Int64GetDatum(counts.rows_applied)};
            bool nulls[3] = {};
            return pg::row_result(fcinfo, values, nulls);
        });
    });
}

}  // extern "C"
