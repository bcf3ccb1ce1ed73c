// Records whose snapshot could not be kept by the trigger, and their repair from the log
// (docs/contract/data.md, sync_changes).
#pragma once

#include "mana_ai/extension/replay.hpp"

namespace mana_ai {

// Marks a record; never waits. May ereport(ERROR): call it inside pg::guarded(). `reason` is a few
// words for an operator and quotes nothing of the row.
void mark_dirty(const RecordKey& key, const char* reason);

// Repairs up to `limit` marked records in the current transaction and returns how many. One that
// cannot be repaired now goes to the end of the queue; it never stops the others.
int repair_dirty_records(int limit);

}  // namespace mana_ai
