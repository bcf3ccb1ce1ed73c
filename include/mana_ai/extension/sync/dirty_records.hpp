// Records whose snapshot could not be kept by the trigger, and their repair from the log
// (docs/contract/data.md, sync_changes).
#pragma once

#include "mana_ai/extension/sync/replay.hpp"

namespace mana_ai {

// Marks a record; never waits for a row. When somebody holds the table of marks as a whole for
// longer than a second, it raises 55P03 before it has done anything. May ereport(ERROR): call it
// inside pg::guarded(). `reason` is a few words for an operator and quotes nothing of the row.
void mark_dirty(const RecordKey& key, const char* reason);

struct RepairCounts {
    int repaired = 0;
    int left = 0;  // looked at, but not to be repaired now
};

// Looks at up to `limit` marks in the current transaction. A record that cannot be repaired now
// goes to the end of the queue; it never stops the others. Costs one lookup when there are no
// marks.
RepairCounts repair_dirty_records(int limit);

// Records that have a mark, as the current transaction sees them. Throws PgError.
int64_t count_dirty_records();

}  // namespace mana_ai
