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

// Whether somebody may wait for the row of another app's record, by a hash probe, and the row was
// written by a user: what agents and the system write wakes nobody. Raises nothing and costs almost
// nothing if nobody waits.
bool may_wake(TupleTableSlot* slot, const SyncShape& shape);

// Marks the row's record; with `many`, a mark for any number of records. Never waits: false if the
// table of marks is locked. May ereport(ERROR): call it inside pg::guarded().
bool try_mark_input(TupleTableSlot* slot, const SyncShape& shape, bool many);

// Marks a mission whose record has changed, if its inputs wake it or did so: they may be others
// now. nullptr: it is gone. A table of marks that is locked is passed over. May ereport(ERROR).
void mark_watching_mission(const RecordKey& key, const RecordState* state);

}  // namespace mana_ai
