#include "mana_ai/extension/sync/sorted_log.hpp"

#include <algorithm>

#include "mana_ai/extension/sync/own_tables.hpp"
#include "mana_ai/pg/text.hpp"
#include "mana_ai/pg/time.hpp"

extern "C" {
#include "access/heapam.h"
#include "access/table.h"
#include "access/tableam.h"
#include "catalog/pg_collation_d.h"
#include "catalog/pg_operator_d.h"
#include "catalog/pg_type_d.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
}

namespace mana_ai {

namespace {

enum Column : AttrNumber {
    kRecordId = 1,
    kUserId,
    kKind,
    kOp,
    kData,
    kStamps,
    kCreatedAt,
    kSpace,
    kPosition,
    kTree,
    kColumns = kTree,
};

TupleDesc row_descriptor() {
    TupleDesc descriptor = CreateTemplateTupleDesc(kColumns);
    auto column = [descriptor](Column number, const char* name, Oid type) {
        TupleDescInitEntry(descriptor, number, name, type, -1, 0);
    };
    column(kRecordId, "record_id", TEXTOID);
    column(kUserId, "user_id", TEXTOID);
    column(kKind, "kind", INT4OID);
    column(kOp, "op", TEXTOID);
    column(kData, "data", JSONBOID);
    column(kStamps, "stamps", JSONBOID);
    column(kCreatedAt, "created_at", TIMESTAMPTZOID);
    column(kSpace, "space_id", TEXTOID);
    column(kPosition, "position", INT8OID);
    column(kTree, "tree", OIDOID);
    return descriptor;
}

bool kind_of_row(TupleTableSlot* slot, AttrNumber table_name, RecordKind* kind) {
    bool is_null = false;
    const Datum value = slot_getattr(slot, table_name, &is_null);
    if (is_null)
        return false;
    return kind_of_table(pg::text_view(value), kind);
}

}  // namespace

void SortedLog::begin() {
    TupleDesc descriptor = row_descriptor();
    // Rows of one record must be adjacent: any order of texts works, and bytewise is the fastest.
    AttrNumber columns[] = {kRecordId, kUserId, kKind};
    Oid operators[] = {TextLessOperator, TextLessOperator, Int4LessOperator};
    Oid collations[] = {C_COLLATION_OID, C_COLLATION_OID, InvalidOid};
    bool nulls_first[] = {false, false, false};
    // The last argument, a bool before PostgreSQL 15 and flags since: read once, forwards.
    sort_ = tuplesort_begin_heap(descriptor, 3, columns, operators, collations, nulls_first,
                                 std::max(work_mem, maintenance_work_mem), nullptr, 0);
    input_ = MakeSingleTupleTableSlot(descriptor, &TTSOpsVirtual);
    output_ = MakeSingleTupleTableSlot(descriptor, &TTSOpsMinimalTuple);
}

void SortedLog::put(Datum user_id, Datum record_id, RecordKind kind, Oid tree,
                    const ChangeRowValues* values) {
    ExecClearTuple(input_);
    auto set = [this](Column column, Datum value, bool is_null) {
        input_->tts_values[column - 1] = value;
        input_->tts_isnull[column - 1] = is_null;
    };
    const ChangeRowValues none{};
    const ChangeRowValues& row = values != nullptr ? *values : none;
    const bool no_row = values == nullptr;
    set(kRecordId, record_id, false);
    set(kUserId, user_id, false);
    set(kKind, Int32GetDatum(static_cast<int32>(kind)), false);
    set(kOp, row.op, no_row);
    set(kData, row.data, no_row || row.data_is_null);
    set(kStamps, row.stamps, no_row || row.stamps_is_null);
    set(kCreatedAt, row.created_at, no_row || row.created_at_is_null);
    set(kSpace, row.space, no_row || row.space_is_null);
    set(kPosition, Int64GetDatum(static_cast<int64_t>(row.position)), no_row);
    set(kTree, ObjectIdGetDatum(tree), false);
    ExecStoreVirtualTuple(input_);
    tuplesort_puttupleslot(sort_, input_);
}

// False: the row is not one of a mission or an agent, or not of the kind of the part.
bool SortedLog::put_row(TupleTableSlot* slot, const SyncShape& shape, uint64_t place,
                        const Part* part, MemoryContext row_memory) {
    RecordKind kind{};
    MemoryContextReset(row_memory);
    MemoryContext outer = MemoryContextSwitchTo(row_memory);
    const bool is_ours =
        is_column_text(slot, shape.app_id, "ai") && kind_of_row(slot, shape.table_name, &kind);
    MemoryContextSwitchTo(outer);
    if (!is_ours || (part != nullptr && kind != part->kind))
        return false;
    bool no_record = false;
    bool no_user = false;
    const Datum record_id = slot_getattr(slot, shape.record_id, &no_record);
    const Datum user_id = slot_getattr(slot, shape.user_id, &no_user);
    if (no_record || no_user)
        return false;
    MemoryContextSwitchTo(row_memory);
    if (part != nullptr && part->only_names) {
        put(user_id, record_id, kind, shape.tree, nullptr);
    } else {
        const ChangeRowValues values = change_row_values(slot, shape, place);
        put(user_id, record_id, kind, shape.tree, &values);
    }
    MemoryContextSwitchTo(outer);
    return true;
}

void SortedLog::add_rows(Relation leaf, LeavesInUse& in_use, Snapshot snapshot) {
    const SyncShape shape = shape_of(leaf);
    const uint64_t place = place_of(shape.tree, RelationGetRelid(leaf));
    TupleTableSlot* slot = table_slot_create(leaf, nullptr);
    TableScanDesc scan = table_beginscan(leaf, snapshot, 0, nullptr);
    MemoryContext row_memory =
        AllocSetContextCreate(CurrentMemoryContext, "mana_ai row", ALLOCSET_SMALL_SIZES);
    while (table_scan_getnextslot(scan, ForwardScanDirection, slot)) {
        look(in_use);
        put_row(slot, shape, place, nullptr, row_memory);
    }
    MemoryContextDelete(row_memory);
    table_endscan(scan);
    ExecDropSingleTupleTableSlot(slot);
}

BlockNumber SortedLog::add_part(Relation leaf, LeavesInUse& in_use, Snapshot snapshot,
                                const Part& part) {
    // VACUUM may have cut the file since its size was noted.
    const BlockNumber end = std::min(part.end, RelationGetNumberOfBlocks(leaf));
    if (part.first >= end)
        return part.end;
    const SyncShape shape = shape_of(leaf);
    const uint64_t place = place_of(shape.tree, RelationGetRelid(leaf));
    TupleTableSlot* slot = table_slot_create(leaf, nullptr);
    // A leaf is a heap (leaf_problem()). With a ring of buffers, so that the log does not displace
    // everything else.
    TableScanDesc scan = table_beginscan_strat(leaf, snapshot, 0, nullptr, true, false);
    heap_setscanlimits(scan, part.first, end - part.first);
    MemoryContext row_memory =
        AllocSetContextCreate(CurrentMemoryContext, "mana_ai row", ALLOCSET_SMALL_SIZES);
    int64_t rows = 0;
    BlockNumber in_block = part.first;
    BlockNumber next = part.end;
    while (table_scan_getnextslot(scan, ForwardScanDirection, slot)) {
        look(in_use);
        const BlockNumber block = ItemPointerGetBlockNumber(&slot->tts_tid);
        if (block != in_block && (rows >= part.rows || pg::monotonic_now() >= part.until)) {
            next = block;
            break;
        }
        in_block = block;
        rows += put_row(slot, shape, place, &part, row_memory) ? 1 : 0;
    }
    MemoryContextDelete(row_memory);
    table_endscan(scan);
    ExecDropSingleTupleTableSlot(slot);
    return next;
}

void SortedLog::add_names(Oid table, AttrNumber user_id, AttrNumber record_id,
                          AttrNumber table_name, RecordKind kind, Snapshot snapshot) {
    Relation relation = table_open(table, AccessShareLock);
    TupleTableSlot* slot = table_slot_create(relation, nullptr);
    TableScanDesc scan = table_beginscan(relation, snapshot, 0, nullptr);
    while (table_scan_getnextslot(scan, ForwardScanDirection, slot)) {
        CHECK_FOR_INTERRUPTS();
        if (table_name != InvalidAttrNumber && !kind_of_row(slot, table_name, &kind))
            continue;
        bool is_null = false;
        put(slot_getattr(slot, user_id, &is_null), slot_getattr(slot, record_id, &is_null), kind,
            InvalidOid, nullptr);
    }
    table_endscan(scan);
    ExecDropSingleTupleTableSlot(slot);
    table_close(relation, AccessShareLock);
}

void SortedLog::add_held_records(Snapshot snapshot) {
    const OwnTables tables = own_tables();
    auto add_snapshots = [&](const SnapshotTable& columns, RecordKind kind) {
        add_names(columns.key.table, columns.user_id, columns.record_id, InvalidAttrNumber, kind,
                  snapshot);
    };
    add_snapshots(tables.missions, RecordKind::Mission);
    add_snapshots(tables.agents, RecordKind::Agent);
    add_names(tables.tombstones.key.table, tables.tombstones.user_id, tables.tombstones.record_id,
              tables.tombstones.table_name, RecordKind::Mission, snapshot);
}

void SortedLog::sort() {
    tuplesort_performsort(sort_);
}

bool SortedLog::next(SortedRow& row) {
    if (!tuplesort_gettupleslot(sort_, true, false, output_, nullptr))
        return false;
    bool is_null = false;
    auto get = [this](Column column, bool* column_is_null) {
        return slot_getattr(output_, column, column_is_null);
    };
    row.record_id = get(kRecordId, &is_null);
    row.user_id = get(kUserId, &is_null);
    row.kind = static_cast<RecordKind>(DatumGetInt32(get(kKind, &is_null)));
    ChangeRowValues& values = row.values;
    values.op = get(kOp, &is_null);
    values.data = get(kData, &values.data_is_null);
    values.stamps = get(kStamps, &values.stamps_is_null);
    values.created_at = get(kCreatedAt, &values.created_at_is_null);
    values.space = get(kSpace, &values.space_is_null);
    values.position = static_cast<uint64_t>(DatumGetInt64(get(kPosition, &is_null)));
    row.is_row = !is_null;
    row.tree = DatumGetObjectId(get(kTree, &is_null));
    return true;
}

void SortedLog::end() {
    ExecDropSingleTupleTableSlot(input_);
    ExecDropSingleTupleTableSlot(output_);
    tuplesort_end(sort_);
}

}  // namespace mana_ai
