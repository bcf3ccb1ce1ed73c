#include "mana_ai/extension/sync/backfill.hpp"

#include <algorithm>
#include <string>

#include "mana_ai/extension/sync/dirty_records.hpp"
#include "mana_ai/extension/sync/snapshots.hpp"
#include "mana_ai/extension/sync/sync_table.hpp"
#include "mana_ai/pg/failpoint.hpp"
#include "mana_ai/pg/guard.hpp"
#include "mana_ai/pg/metrics.hpp"
#include "mana_ai/pg/record_lock.hpp"
#include "mana_ai/pg/script_notice.hpp"
#include "mana_ai/pg/spi.hpp"
#include "mana_ai/pg/wake.hpp"

extern "C" {
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/visibilitymap.h"
#include "access/xact.h"
#include "executor/spi.h"
#include "funcapi.h"
#include "storage/bufmgr.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"
}

namespace mana_ai {

namespace {

constexpr int kFetch = 2000;
constexpr int64_t kRowsPerNotice = 500'000;
// How long a fold as a whole waits for records that others work on, and at most at a time.
constexpr int kMaxWaitMs = 2000;
constexpr int kMaxPauseMs = 64;
constexpr uint64_t kRefreshLock = 0;  // hash under which two refreshes exclude each other

enum Column { kRecordId = 1, kUserId, kChangeRow };

std::string cursor_query(Relation log, const SyncShape& shape, const char* table_name) {
    struct Names {
        const char* schema;
        const char* table;
    };
    const Names names = pg::guarded([log] {
        return Names{quote_identifier(get_namespace_name(RelationGetNamespace(log))),
                     quote_identifier(pstrdup(RelationGetRelationName(log)))};
    });
    return "SELECT record_id, user_id, " +
           change_row_columns(shape.has_field_meta, shape.space_id != 0) + " FROM ONLY " +
           names.schema + "." + names.table + " WHERE app_id = 'ai' AND table_name = '" +
           table_name +
           "' AND record_id IS NOT NULL AND user_id IS NOT NULL ORDER BY record_id, user_id";
}

void note_progress(const FoldCounts& counts) {
    pg::notice_in_script(psprintf("mana_ai: %lld rows folded, %lld snapshots made",
                                  static_cast<long long>(counts.rows_applied),
                                  static_cast<long long>(counts.new_snapshots)));
}

// Folds one group of rows after the other. All methods may ereport(ERROR).
class HistoryFold {
 public:
    HistoryFold(Relation log, FoldCounts& counts) : log_(log), counts_(counts) {}

    void begin(const char* table_name) {
        open_store(store_, log_);
        record_context_ =
            AllocSetContextCreate(CurrentMemoryContext, "mana_ai fold", ALLOCSET_DEFAULT_SIZES);
        key_context_ =
            AllocSetContextCreate(CurrentMemoryContext, "mana_ai fold key", ALLOCSET_SMALL_SIZES);
        begin_fold(fold_, log_generation(log_));
        name_.key.table_name = CStringGetTextDatum(table_name);
        kind_of_table(table_name, &name_.kind);
        in_group_ = false;
    }

    void add(HeapTuple tuple, TupleDesc descriptor) {
        bool is_null = false;
        const Datum record_id = heap_getattr(tuple, kRecordId, descriptor, &is_null);
        const Datum user_id = heap_getattr(tuple, kUserId, descriptor, &is_null);
        if (!in_group_ || !same_text(record_id, name_.key.record_id) ||
            !same_text(user_id, name_.key.user_id)) {
            store_group();
            MemoryContextReset(key_context_);
            MemoryContext outer = MemoryContextSwitchTo(key_context_);
            name_.key.record_id = PointerGetDatum(DatumGetTextPCopy(record_id));
            name_.key.user_id = PointerGetDatum(DatumGetTextPCopy(user_id));
            MemoryContextSwitchTo(outer);
            in_group_ = true;
        }
        const ChangeRowValues values =
            change_row_values(kChangeRow, [tuple, descriptor](int column, bool* column_is_null) {
                return heap_getattr(tuple, column, descriptor, column_is_null);
            });
        fold_row(fold_, values);
        if (++counts_.rows_applied % kRowsPerNotice == 0)
            note_progress(counts_);
    }

    void end() {
        store_group();
        end_fold(fold_);
        MemoryContextDelete(key_context_);
        MemoryContextDelete(record_context_);
        close_store(store_);
    }

 private:
    static bool same_text(Datum a, Datum b) {
        const text* x = DatumGetTextPP(a);
        const text* y = DatumGetTextPP(b);
        return VARSIZE_ANY_EXHDR(x) == VARSIZE_ANY_EXHDR(y) &&
               memcmp(VARDATA_ANY(x), VARDATA_ANY(y), VARSIZE_ANY_EXHDR(x)) == 0;
    }

    void store_group() {
        if (!in_group_)
            return;
        MemoryContext outer = MemoryContextSwitchTo(record_context_);
        if (!ids_fit(name_.key)) {
            mark_dirty(name_.key, "ids too long");
        } else {
            Kept kept = keep_folded_record(store_, name_, fold_.state);
            for (int pause_ms = 1; kept == Kept::Busy && waited_ms_ < kMaxWaitMs;
                 pause_ms = std::min(pause_ms * 2, kMaxPauseMs)) {
                pg::sleep_and_check_interrupts(pause_ms);
                waited_ms_ += pause_ms;
                kept = keep_record(store_, name_, nullptr, ScanLimit::None);
            }
            if (kept == Kept::Created)
                counts_.new_snapshots++;
            else if (kept == Kept::Changed && !is_deleted(fold_.state))
                counts_.updated_snapshots++;
            else if (kept == Kept::Busy)
                mark_dirty(name_.key, "busy");
            else if (kept == Kept::TooLarge)
                mark_dirty(name_.key, "record too large");
        }
        MemoryContextSwitchTo(outer);
        MemoryContextReset(record_context_);
        restart_fold(fold_);
        in_group_ = false;
    }

    Relation log_;
    FoldCounts& counts_;
    SnapshotStore store_{};
    MemoryContext record_context_ = nullptr;
    MemoryContext key_context_ = nullptr;
    Fold fold_{};
    RecordName name_{};
    bool in_group_ = false;
    int waited_ms_ = 0;
};

static_assert(std::is_trivially_destructible_v<HistoryFold>);

void fold_table(Relation log, const char* table_name, FoldCounts& counts) {
    const SyncShape* shape = pg::guarded([log] { return &shape_of(log); });
    const std::string query = cursor_query(log, *shape, table_name);
    HistoryFold fold(log, counts);
    pg::guarded([&] {
        if (SPI_connect() != SPI_OK_CONNECT)
            elog(ERROR, "SPI_connect failed");
        // The rows are sorted where no index brings them in order: maintenance, not a query.
        const int settings = NewGUCNestLevel();
        set_config_option("work_mem", psprintf("%dkB", std::max(work_mem, maintenance_work_mem)),
                          PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
        SPIPlanPtr plan = SPI_prepare_cursor(query.c_str(), 0, nullptr, CURSOR_OPT_NO_SCROLL);
        if (plan == nullptr)
            elog(ERROR, "SPI_prepare_cursor failed: %s", SPI_result_code_string(SPI_result));
        // Read-only: the cursor reads with the active snapshot, which is the caller's.
        Portal cursor = SPI_cursor_open(nullptr, plan, nullptr, nullptr, true);
        fold.begin(table_name);
        for (;;) {
            CHECK_FOR_INTERRUPTS();
            SPI_cursor_fetch(cursor, true, kFetch);
            if (SPI_processed == 0)
                break;
            for (uint64 i = 0; i < SPI_processed; i++)
                fold.add(SPI_tuptable->vals[i], SPI_tuptable->tupdesc);
            SPI_freetuptable(SPI_tuptable);
        }
        fold.end();
        SPI_cursor_close(cursor);
        AtEOXact_GUC(true, settings);
        SPI_finish();
    });
}

// A row that the snapshot did not see, though it is there now.
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
    const text* table = DatumGetTextPP(name.key.table_name);
    if (!kind_of_table({VARDATA_ANY(table), static_cast<size_t>(VARSIZE_ANY_EXHDR(table))},
                       &name.kind))
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

// The next blocks, from `first` on, that may hold such rows. A page that everybody sees cannot: our
// own, older snapshot keeps younger pages from being marked so.
bool next_young_blocks(Relation log, BlockNumber first, BlockNumber end, Buffer* map,
                       ItemPointer low, ItemPointer high) {
    auto is_old = [&](BlockNumber block) {
        return (visibilitymap_get_status(log, block, map) & VISIBILITYMAP_ALL_VISIBLE) != 0;
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

bool equals(TupleTableSlot* slot, AttrNumber column, const char* wanted) {
    bool is_null = false;
    const Datum value = slot_getattr(slot, column, &is_null);
    if (is_null)
        return false;
    const text* packed = DatumGetTextPP(value);
    const size_t size = strlen(wanted);
    return VARSIZE_ANY_EXHDR(packed) == size && memcmp(VARDATA_ANY(packed), wanted, size) == 0;
}

}  // namespace

void serialize_folds() {
    pg::lock_name_and_wait(kRefreshLock);
}

FoldCounts fold_history(Relation log, Snapshot snapshot) {
    MANA_AI_FAILPOINT("fold.begin");
    FoldCounts counts;
    pg::guarded([=] { PushActiveSnapshot(snapshot); });
    fold_table(log, "aiMissions", counts);
    fold_table(log, "agents", counts);
    pg::guarded([] { PopActiveSnapshot(); });
    MANA_AI_FAILPOINT("fold.folded");
    return counts;
}

void catch_up(Relation log, Snapshot snapshot, FoldCounts& counts) {
    pg::guarded([&] {
        SnapshotStore store;
        open_store(store, log);
        CommandCounterIncrement();
        Snapshot now = RegisterSnapshot(GetLatestSnapshot());
        TupleTableSlot* slot = table_slot_create(log, nullptr);
        MemoryContext context =
            AllocSetContextCreate(CurrentMemoryContext, "mana_ai catch-up", ALLOCSET_DEFAULT_SIZES);
        const BlockNumber end = RelationGetNumberOfBlocks(log);
        Buffer map = InvalidBuffer;
        ItemPointerData low;
        ItemPointerData high;
        for (BlockNumber first = 0; next_young_blocks(log, first, end, &map, &low, &high);
             first = ItemPointerGetBlockNumber(&high) + 1) {
            TableScanDesc scan = table_beginscan_tidrange(log, now, &low, &high);
            while (table_scan_getnextslot_tidrange(scan, ForwardScanDirection, slot)) {
                CHECK_FOR_INTERRUPTS();
                if (!is_newer_than(slot, snapshot) || !equals(slot, store.shape->app_id, "ai"))
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

void drop_snapshots_without_log(Relation log, FoldCounts& counts) {
    const std::string relation = pg::guarded([log] {
        return quote_qualified_identifier(get_namespace_name(RelationGetNamespace(log)),
                                          RelationGetRelationName(log));
    });
    // Marked and not deleted here: the repair takes the record's lock and looks again. "default" is
    // the collation of the log's indexes.
    pg::Statement mark_lost(R"sql(
INSERT INTO mana_ai.dirty_records (user_id, table_name, record_id, reason)
SELECT k.user_id, k.table_name, k.record_id, 'no rows in the log'
  FROM (SELECT user_id, 'aiMissions', mission_id FROM mana_ai.mission_snapshots
        UNION ALL SELECT user_id, 'agents', agent_id FROM mana_ai.agent_snapshots
        UNION ALL SELECT user_id, table_name, record_id FROM mana_ai.record_tombstones
       ) AS k(user_id, table_name, record_id)
 WHERE NOT EXISTS (SELECT FROM ONLY )sql" +
                            relation + R"sql( c
                    WHERE c.table_name = k.table_name COLLATE "default"
                      AND c.record_id = k.record_id COLLATE "default"
                      AND c.user_id = k.user_id COLLATE "default" AND c.app_id = 'ai'))sql");
    counts.updated_snapshots += static_cast<int64_t>(mark_lost.execute().processed);
}

void remember_folded(Oid log) {
    static pg::Statement remember(R"sql(
INSERT INTO mana_ai.folded_log AS f (log) VALUES ($1::oid)
    ON CONFLICT (only_row) DO UPDATE SET log = $1::oid, folded_at = clock_timestamp())sql");
    remember.execute({int64_t{log}});
}

bool history_is_missing() {
    const Oid attached = pg::guarded([] { return attached_relation(); });
    if (!OidIsValid(attached))
        return false;
    static pg::Statement select_folded("SELECT log FROM mana_ai.folded_log WHERE log = $1::oid");
    return select_folded.execute({int64_t{attached}}).rows.empty();
}

FoldCounts refresh_snapshots() {
    const Oid log_oid = attached_sync_table().oid;
    struct Open {
        Relation log;
        Snapshot snapshot;
    };
    const Open open = pg::guarded([log_oid] {
        serialize_folds();
        Relation log = open_log(log_oid);
        CommandCounterIncrement();
        return Open{log, RegisterSnapshot(GetLatestSnapshot())};
    });
    FoldCounts counts = fold_history(open.log, open.snapshot);
    count_fold(counts);
    drop_snapshots_without_log(open.log, counts);
    pg::guarded([&open] {
        UnregisterSnapshot(open.snapshot);
        table_close(open.log, NoLock);
        CommandCounterIncrement();
    });
    constexpr int kRepairBatch = 1000;
    while (repair_dirty_records(kRepairBatch).repaired > 0)
        pg::check_for_interrupts();
    MANA_AI_FAILPOINT("fold.repaired");
    remember_folded(log_oid);
    pg::wake_worker_at_commit();
    return counts;
}

}  // namespace mana_ai

extern "C" {

PG_FUNCTION_INFO_V1(mana_ai_refresh_snapshots);
PGDLLEXPORT Datum mana_ai_refresh_snapshots(PG_FUNCTION_ARGS) {
    using namespace mana_ai;
    return pg::entry_point([fcinfo] {
        const FoldCounts counts = refresh_snapshots();
        return pg::guarded([&] {
            TupleDesc descriptor = nullptr;
            if (get_call_result_type(fcinfo, nullptr, &descriptor) != TYPEFUNC_COMPOSITE)
                elog(ERROR, "return type must be a row type");
            descriptor = BlessTupleDesc(descriptor);
            Datum values[3] = {Int32GetDatum(static_cast<int32>(counts.new_snapshots)),
                               Int32GetDatum(static_cast<int32>(counts.updated_snapshots)),
                               Int64GetDatum(counts.rows_applied)};
            bool nulls[3] = {};
            return HeapTupleGetDatum(heap_form_tuple(descriptor, values, nulls));
        });
    });
}

}  // extern "C"
