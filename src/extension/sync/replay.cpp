#include "mana_ai/extension/sync/replay.hpp"

#include "mana_ai/pg/compat.hpp"
#include "mana_ai/pg/text.hpp"

extern "C" {
#include "access/detoast.h"
#include "access/genam.h"
#include "access/relscan.h"
#include "access/skey.h"
#include "access/sysattr.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_type_d.h"
#include "executor/spi.h"
#include "executor/tuptable.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "utils/jsonb.h"
}

namespace mana_ai {

namespace {

constexpr size_t kSettleAbove = 1024 * 1024;
constexpr BlockNumber kSmallTableBlocks = 256;

// Copies the state into new memory and releases the rows. The current context is fold.memory,
// before and after.
void settle(Fold& fold) {
    MemoryContext fresh = AllocSetContextCreate(MemoryContextGetParent(fold.memory),
                                                "mana_ai record", ALLOCSET_DEFAULT_SIZES);
    MemoryContextSwitchTo(fresh);
    const RecordState settled = owned_copy_of(fold.state);
    MemoryContextDelete(fold.memory);
    fold.memory = fresh;
    fold.state = settled;
    fold.settled_size = MemoryContextMemAllocated(fresh, false);
}

constexpr Size kMaxBackgroundValue = 16 * 1024 * 1024;

[[noreturn]] void refuse_size() {
    ereport(ERROR, (errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
                    errmsg("record is too large to be replayed")));
    pg_unreachable();
}

void apply(Fold& fold, const ChangeRow& row) {
    fold.is_spoilt |= apply_row(fold.state, row, fold.rule, fold.bounds) == Applied::AskLog;
    fold.rows++;
    const size_t size = MemoryContextMemAllocated(fold.memory, false);
    if (MyBackendType == B_BG_WORKER && size > 4 * kMaxBackgroundValue)
        refuse_size();
    if (size <= kSettleAbove || size <= 4 * fold.settled_size)
        return;
    // Rows of a state that does not fit cannot be released.
    if (!fits_into_jsonb(fold.state))
        refuse_size();
    settle(fold);
}

Datum key_value(const RecordKey& key, LogIndexKey::Column column) {
    switch (column) {
        case LogIndexKey::Column::AppId:
            break;
        case LogIndexKey::Column::TableName:
            return key.table_name;
        case LogIndexKey::Column::RecordId:
            return key.record_id;
        case LogIndexKey::Column::UserId:
            return key.user_id;
    }
    return PointerGetDatum(cstring_to_text("ai"));
}

bool is_row_of(TupleTableSlot* slot, const SyncShape& shape, const RecordKey& key, Datum app) {
    auto matches = [slot](AttrNumber column, Datum wanted) {
        bool is_null = false;
        const Datum value = slot_getattr(slot, column, &is_null);
        return !is_null && pg::same_text(value, wanted);
    };
    return matches(shape.record_id, key.record_id) && matches(shape.user_id, key.user_id) &&
           matches(shape.table_name, key.table_name) && matches(shape.app_id, app);
}

// The limit of a short replay: 4 MB of uncompressed rows, with an extra 4 kB for each. A row that
// was read already does not count.
constexpr size_t kShortReplay = 4 * 1024 * 1024;
constexpr size_t kCostOfRow = 4096;

bool is_affordable(Fold& fold, size_t cost) {
    const bool fits = cost <= fold.left_to_read;
    fold.left_to_read -= fits ? cost : fold.left_to_read;
    return fits;
}

size_t cost_of(TupleTableSlot* slot, const SyncShape& shape) {
    size_t cost = kCostOfRow;
    for (const AttrNumber column : {shape.data, shape.stamps}) {
        bool is_null = false;
        const Datum value = slot_getattr(slot, column, &is_null);
        if (!is_null)
            cost += toast_raw_datum_size(value);
    }
    return cost;
}

bool is_own_row(TupleTableSlot* slot) {
    bool is_null = false;
    return TransactionIdIsCurrentTransactionId(
        DatumGetTransactionId(slot_getsysattr(slot, MinTransactionIdAttributeNumber, &is_null)));
}

uint64_t place_in(const Fold& fold, TupleTableSlot* slot) {
    return fold.place | position_of(&slot->tts_tid);
}

// Folds a row of the record unless it is to be skipped. False: there is more than may be read.
bool take_row(Fold& fold, TupleTableSlot* slot, const SyncShape& shape, ScanLimit limit) {
    const bool is_known = fold.known != nullptr && fold.known->position == place_in(fold, slot);
    const bool is_free =
        limit == ScanLimit::None || is_known || (limit != ScanLimit::FewRows && is_own_row(slot));
    if (!is_free && limit == ScanLimit::OnlyOwn)
        return is_affordable(fold, kCostOfRow);
    if (!is_free && !is_affordable(fold, cost_of(slot, shape)))
        return false;
    fold_row(fold, slot, shape);
    return !fold.is_spoilt;
}

// False: there is more than may be read. The newest rows come first if the index ends with their
// time.
bool scan_index(Relation log, const SyncShape& shape, const RecordKey& key, Datum app,
                Snapshot snapshot, TupleTableSlot* slot, ScanLimit limit, Fold& fold) {
    Relation index = index_open(shape.index, AccessShareLock);
    ScanKeyData keys[kMaxLogIndexKeys];
    for (int i = 0; i < shape.index_keys; i++)
        ScanKeyEntryInitialize(&keys[i], 0, static_cast<AttrNumber>(i + 1), BTEqualStrategyNumber,
                               InvalidOid, shape.index_key[i].collation, shape.index_key[i].equals,
                               key_value(key, shape.index_key[i].column));
    IndexScanDesc scan = pg::compat::begin_index_scan(log, index, snapshot, shape.index_keys);
    index_rescan(scan, keys, shape.index_keys, nullptr, 0);
    bool whole = true;
    while (whole && index_getnext_slot(scan, BackwardScanDirection, slot)) {
        CHECK_FOR_INTERRUPTS();
        // Another user's record of the same id counts as read too.
        if (is_row_of(slot, shape, key, app))
            whole = take_row(fold, slot, shape, limit);
        else if (limit != ScanLimit::None)
            whole = is_affordable(fold, kCostOfRow);
    }
    index_endscan(scan);
    index_close(index, AccessShareLock);
    return whole;
}

bool scan_table(Relation log, const SyncShape& shape, const RecordKey& key, Datum app,
                Snapshot snapshot, TupleTableSlot* slot, ScanLimit limit, Fold& fold) {
    TableScanDesc scan = table_beginscan(log, snapshot, 0, nullptr);
    bool whole = true;
    while (whole && table_scan_getnextslot(scan, ForwardScanDirection, slot)) {
        CHECK_FOR_INTERRUPTS();
        if (is_row_of(slot, shape, key, app))
            whole = take_row(fold, slot, shape, limit);
    }
    table_endscan(scan);
    return whole;
}

}  // namespace

void check_background_size(TupleTableSlot* slot, AttrNumber column) {
    if (MyBackendType != B_BG_WORKER)
        return;
    bool is_null = false;
    const Datum value = slot_getattr(slot, column, &is_null);
    if (!is_null && toast_raw_datum_size(value) > kMaxBackgroundValue)
        refuse_size();
}

void begin_fold(Fold& fold) {
    fold.memory =
        AllocSetContextCreate(CurrentMemoryContext, "mana_ai record", ALLOCSET_DEFAULT_SIZES);
    fold.state = RecordState{};
    fold.rows = 0;
    fold.known = nullptr;
    fold.rule = PlaceLost::RowWins;
    fold.is_spoilt = false;
    fold.settled_size = 0;
    fold.others_to_pass_over = 0;
    fold.place = 0;
    fold.bounds = nullptr;
}

void fold_row(Fold& fold, const ChangeRowValues& values) {
    MemoryContext outer = MemoryContextSwitchTo(fold.memory);
    apply(fold, make_change_row(values, true));
    MemoryContextSwitchTo(outer);
}

void fold_row(Fold& fold, TupleTableSlot* slot, const SyncShape& shape) {
    MemoryContext outer = MemoryContextSwitchTo(fold.memory);
    if (fold.known != nullptr && fold.known->position == place_in(fold, slot)) {
        apply(fold, *fold.known);
    } else {
        check_background_size(slot, shape.data);
        check_background_size(slot, shape.stamps);
        apply(fold, read_change_row(slot, shape, fold.place, true));
    }
    MemoryContextSwitchTo(outer);
}

void restart_fold(Fold& fold) {
    MemoryContextReset(fold.memory);
    fold.state = RecordState{};
    fold.rows = 0;
    fold.settled_size = 0;
}

void end_fold(Fold& fold) {
    MemoryContextDelete(fold.memory);
}

void begin_replay(Fold& fold, ScanLimit limit) {
    fold.left_to_read =
        limit == ScanLimit::OnlyOwn ? fold.others_to_pass_over * kCostOfRow : kShortReplay;
}

Replayed replay_record(Relation leaf, const SyncShape& shape, const RecordKey& key,
                       Snapshot snapshot, ScanLimit limit, Fold& fold) {
    const bool use_index = OidIsValid(shape.index);
    if (limit != ScanLimit::None && !(use_index && shape.index_finds_record) &&
        RelationGetNumberOfBlocks(leaf) > kSmallTableBlocks)
        return Replayed::NoIndex;
    const bool is_further = fold.place != 0 && limit != ScanLimit::OnlyOwn;
    if (is_further && limit != ScanLimit::None && !is_affordable(fold, kCostOfRow))
        return Replayed::TooLong;
    const Datum app = PointerGetDatum(cstring_to_text("ai"));
    TupleTableSlot* slot = table_slot_create(leaf, nullptr);
    const bool whole = use_index ? scan_index(leaf, shape, key, app, snapshot, slot, limit, fold)
                                 : scan_table(leaf, shape, key, app, snapshot, slot, limit, fold);
    ExecDropSingleTupleTableSlot(slot);
    return whole ? Replayed::Done : Replayed::TooLong;
}

}  // namespace mana_ai
