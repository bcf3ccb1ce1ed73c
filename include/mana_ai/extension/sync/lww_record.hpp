// A record for last-writer-wins: jsonb fields with their clocks, and the merge of a row of the log
// into it (docs/contract/data.md, Field-level last-writer-wins). The only implementation: the
// trigger, the backfill, the repair and mana_ai.replay() all use it.
//
// A state borrows names and values from the jsonb values that it was made of: they must stay in
// memory as long as the state is used. The functions may ereport(ERROR): call them inside
// pg::guarded(). Memory comes from the current context.
#pragma once

#include <cstdint>
#include <string_view>

#include "mana_ai/core/record/lww.hpp"
#include "mana_ai/pg/jsonb_object.hpp"

namespace mana_ai {

// A row of sync_changes, as far as it concerns the record's content.
struct ChangeRow {
    core::RowOp op = core::RowOp::Update;
    core::Instant created_at = 0;
    uint64_t position = 0;          // physical place; never 0
    const Jsonb* data = nullptr;    // nullptr: SQL null
    const Jsonb* stamps = nullptr;  // field_timestamps or field_meta
    bool has_space = false;
    std::string_view space;
};

struct RecordField {
    pg::JsonbFieldRef field;
    core::FieldClock clock;
    bool present = true;  // false: deletedAt that an insert has cleared; only its clock counts
};

// The newest write of each field. A path is a separate field here, in addition to the field that it
// leads into: so every field has its newest write, whatever the order of arrival, and the shown
// value is derived from all of them (shown_state). Paths that a newer write of a field that they
// lead into has overwritten are dropped.
struct RecordState {
    RecordField* fields = nullptr;  // in jsonb's order, without "id"
    uint32_t count = 0;
    uint32_t capacity = 0;
    uint32_t paths = 0;        // how many of the fields are paths
    bool is_old_form = false;  // read from a snapshot whose record showed paths as fields
    bool exists = false;       // any row was applied
    // Of the last row in replay order, which decides the space.
    core::FieldClock row_clock;
    bool has_space = false;
    std::string_view space;
};

enum class Applied : uint8_t {
    Nothing,  // the state already knew all of the row
    Changed,
    AskLog,  // equal times whose physical order is unknown: the state is invalid, replay the log
};

// What decides between the state's write and an equal one in the row, if the place of the former is
// no longer known. A replay reads all remaining rows, whose places are known: the state's write
// loses against the first of them, and the rows decide among themselves.
enum class PlaceLost : uint8_t { AskLog, RowWins };

// With bounds only writes within them count (clock_vector.hpp).
struct ClockBounds;
Applied apply_row(RecordState& state, const ChangeRow& row, PlaceLost rule,
                  const ClockBounds* bounds = nullptr);

// Merges `rows` into the state, as if its rows were applied under PlaceLost::RowWins.
void add_state(RecordState& state, const RecordState& rows);

// apply_row() changes a state in place.
RecordState copy_of(const RecordState& state);

// A copy that borrows nothing.
RecordState owned_copy_of(const RecordState& state);

// The state of a tombstone: only the time of the deletion. At equal times every real write wins, so
// that the rows of the log decide, if it still has them.
RecordState deleted_state(core::Instant deleted_at);

// The state of a snapshot with damaged clocks: its fields, older than everything.
RecordState state_without_clocks(const Jsonb* record, bool has_space, std::string_view space);

bool is_deleted(const RecordState& state);

// Whether a row may bring a deleted record back to life.
bool may_revive(const ChangeRow& row);

// The fields as a reader of the record sees them: writes to paths are applied to the values that
// they lead into. Borrows from `state`. Its cost depends on the size of these values: compute it
// once.
RecordState shown_state(const RecordState& state);

const pg::JsonbValueRef* find_value(const RecordState& shown, std::string_view name);

// The instant at which the record was deleted, as far as the clocks say.
core::Instant deletion_time(const RecordState& state);

// Storing. `generation` names the incarnation of the log's file that positions refer to.
// The clocks hold the writes that the record does not show: paths, and the values that they lead
// into.
bool fits_into_jsonb(const RecordState& state);  // record_of() would raise otherwise
Jsonb* record_of(const RecordState& shown, std::string_view record_id);
bytea* clocks_of(const RecordState& state, uint32_t generation);

// The inverse; false when the two do not fit together. Borrows from the record, not from the
// clocks.
bool read_state(RecordState& state, const Jsonb* record, const bytea* clocks, uint32_t generation,
                bool has_space, std::string_view space);

// Same fields, values, times, ties and space; positions do not count.
bool same_content(const RecordState& a, const RecordState& b);

}  // namespace mana_ai
