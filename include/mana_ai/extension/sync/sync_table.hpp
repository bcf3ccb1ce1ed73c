// The table that mana-sync writes to: its oid, its columns, and how to find a record's rows in it.
// It differs between versions of mana-sync, and columns may be renamed while the extension is
// installed, so everything is read from the relation (docs/contract/data.md, sync_changes).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "mana_ai/extension/sync/lww_record.hpp"
#include "mana_ai/pg/postgres.hpp"
#include "mana_ai/pg/text.hpp"

extern "C" {
#include "access/attnum.h"
#include "executor/tuptable.h"
#include "storage/itemptr.h"
#include "utils/rel.h"
}

namespace mana_ai {

// What a writer of rows needs to know. Throws pg::PgError if no table is attached (55000) or
// check_log() rejects it.
struct SyncTable {
    Oid oid;
    Oid owner;
    std::string qualified_name;  // quoted as SQL needs it
    std::string stamps_column;   // field_timestamps or field_meta
    bool has_space_id;
    bool has_schema_version;
    bool has_actor;
    bool has_origin;
    bool is_partitioned;
};
SyncTable attached_sync_table();

// Everything below may ereport(ERROR): call it inside pg::guarded().

// The table that carries our trigger, or InvalidOid. Cached. Partitions have clones of its trigger.
Oid attached_relation();

// The function of that trigger, or InvalidOid.
Oid trigger_function();

// One column of an index that finds rows of a record.
struct LogIndexKey {
    enum class Column : uint8_t { AppId, TableName, RecordId, UserId } column;
    Oid collation;
    RegProcedure equals;
};
constexpr int kMaxLogIndexKeys = 4;

struct SyncShape {
    // Null if the columns are as required; else the name of the first that is not.
    const char* missing_column;
    bool wrong_type;  // the column is there, but its type is not `expected_type`
    const char* expected_type;

    AttrNumber app_id, table_name, record_id, user_id, op, data, stamps, created_at;
    AttrNumber space_id, schema_version, actor, origin;  // 0: this version of mana-sync has none
    bool has_field_meta;

    // The most selective index for one record; InvalidOid: there is none worth using.
    Oid index;
    int index_keys;
    LogIndexKey index_key[kMaxLogIndexKeys];
    bool index_finds_record;  // record_id is among its leading columns

    // Below which all rows of its records are (log_leaves.hpp): the relation itself, unless it is a
    // partition.
    Oid tree;
    bool has_cloned_trigger;  // a partition whose trigger is that of a partitioned table
};

// The shape of a relation, cached until the relation changes. Valid until the next call for the
// same relation. That of a partitioned table has no index.
const SyncShape& shape_of(Relation relation);
// The same if it is cached, else null. Raises nothing.
const SyncShape* known_shape(Relation relation);

// Why the relation cannot be the log, as a phrase for marks and messages; nullptr: it can. Only
// ordinary heap tables, or partitions that are, have rows in a physical order, and only one with
// the columns of sync_changes may be read by their numbers. A partition has only a part of the log.
const char* log_problem(Relation relation);

// Why rows of the relation, the log or a leaf partition of it, cannot be read; likewise.
const char* leaf_problem(Relation relation);

// Why rows of a relation with our trigger do not count; likewise.
const char* source_problem(Relation relation);

// Raises what log_problem() finds, as 42809 or 42P17 with DETAIL and HINT.
void check_log(Relation relation);

// Opens the log with AccessShareLock and checks it. It may be partitioned: only open_leaf() opens
// what functions of table and index access methods may be given.
Relation open_log(Oid log);

// Why plans cannot be made for the attached table and written to it, as a sentence in the current
// memory context; nullptr: they can. Cheap.
const char* attached_problem();

// Whether it depends on the user if a plan can be written, as far as attached_problem() has last
// seen.
bool may_lack_place_for_user();
// Why a plan of the user cannot be written, although attached_problem() finds nothing; likewise.
const char* place_problem(const char* user_id);

// Identifies the incarnation of the table's file: positions of different ones are not comparable.
uint32_t log_generation(Relation relation);

// -infinity and infinity, and what is near them, as the first and the last instant.
core::Instant saturating_instant(TimestampTz time);

// Whether a text column of the row has this value. May ereport(ERROR). Inline, since the trigger
// calls it for every row of every app.
inline bool is_column_text(TupleTableSlot* slot, AttrNumber column, std::string_view wanted) {
    bool is_null = false;
    const Datum value = slot_getattr(slot, column, &is_null);
    return !is_null && pg::text_view(value) == wanted;
}

// Where a row is, as a number that grows with physical order.
uint64_t position_of(const ItemPointerData* tid);

// The row in the slot as ChangeRow. With `copy` it is copied into the current context, else it may
// borrow from the slot. `place` is place_of() the leaf.
ChangeRow read_change_row(TupleTableSlot* slot, const SyncShape& shape, uint64_t place, bool copy);

// The same in two steps, or from values that a query returned.
struct ChangeRowValues {
    Datum op, data, stamps, created_at, space;
    uint64_t position;
    bool data_is_null, stamps_is_null, created_at_is_null, space_is_null;
};
ChangeRowValues change_row_values(TupleTableSlot* slot, const SyncShape& shape, uint64_t place);
ChangeRow make_change_row(const ChangeRowValues& values, bool copy);
// A row without created_at comes before all others.
core::Instant created_at_of(const ChangeRowValues& values);

// The columns of such a query, and their values: `get(number, &is_null)` returns a column, the
// first of them has number `first`.
std::string change_row_columns(bool has_field_meta, bool has_space_id);
template <class Get>
ChangeRowValues change_row_values(int first, Get get) {
    bool is_null = false;
    ChangeRowValues values{};
    values.op = get(first, &is_null);
    if (is_null)
        values.op = PointerGetDatum(cstring_to_text(""));
    values.data = get(first + 1, &values.data_is_null);
    values.stamps = get(first + 2, &values.stamps_is_null);
    values.created_at = get(first + 3, &values.created_at_is_null);
    values.space = get(first + 4, &values.space_is_null);
    const Datum place = get(first + 5, &is_null);
    values.position =
        is_null ? 0 : position_of(reinterpret_cast<ItemPointer>(DatumGetPointer(place)));
    return values;
}

}  // namespace mana_ai
