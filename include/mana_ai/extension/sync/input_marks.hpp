// Marks of changes that missions wait for (docs/contract/data.md, Waking on data): rows of
// mana_ai.input_changes, written in the transaction of the change.
#pragma once

#include <cstdint>
#include <string_view>

#include "mana_ai/extension/sync/lww_record.hpp"
#include "mana_ai/extension/sync/replay.hpp"
#include "mana_ai/extension/sync/sync_table.hpp"

extern "C" {
#include "executor/tuptable.h"
}

namespace mana_ai {

// Of a record in the filter of shared memory; the same in every process.
uint64_t watch_hash(std::string_view user_id, std::string_view table_name,
                    std::string_view record_id);

// Whether somebody may wait for the row of another app's record, by a hash probe. Raises nothing
// and costs almost nothing if nobody waits.
bool may_wake(TupleTableSlot* slot, const SyncShape& shape);

enum class InputMarked : uint8_t {
    NoNeed,  // nobody waits for the record, or its user did not write the row
    Done,
    Locked,  // the table of marks
};

// Marks the row's record, or with `all_of_user` all records of its user. Never waits. May
// ereport(ERROR): call it inside pg::guarded().
InputMarked try_mark_input(TupleTableSlot* slot, const SyncShape& shape, bool all_of_user);

// Of the row's user; 0: there is none.
uint64_t user_hash(TupleTableSlot* slot, const SyncShape& shape);

// Marks a mission whose record has changed, if its inputs wake it or did so: they may be others
// now. nullptr: it is gone. A table of marks that is locked is passed over. May ereport(ERROR).
void mark_watching_mission(const RecordKey& key, const RecordState* state);

}  // namespace mana_ai
