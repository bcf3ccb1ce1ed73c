// Records whose snapshot could not be kept by the trigger, and their repair from the log
// (docs/contract/data.md, sync_changes).
#pragma once

#include "mana_ai/extension/sync/replay.hpp"

namespace mana_ai {

// What has a mark: a record, or all records of a user who has too many.
enum class Marked : uint8_t { Record, User, TableIsLocked };

// How many marks a user has, as far as the current transaction has found out: what it costs to
// count them is paid once.
struct UserMarks {
    uint64_t user_hash = 0;
    int count = -1;  // not counted yet
};
uint64_t user_hash(const RecordKey& key);  // may ereport(ERROR)

// Marks a record without waiting for anybody. A record has one mark, however often it is marked:
// one that is there already is kept from being removed until our transaction ends. Ids that no
// index can hold are only counted: no repair would ever change that. May ereport(ERROR): call it
// inside pg::guarded(). `reason` is a few words for an operator and quotes nothing of the row.
Marked try_mark_dirty(const RecordKey& key, const char* reason, UserMarks& marks);

// The same for whoever has time. Raises 55P03 when somebody else holds the table of marks for
// longer than a second.
void mark_dirty(const RecordKey& key, const char* reason);

struct RepairCounts {
    int repaired = 0;
    int left = 0;       // looked at, but not to be repaired now
    bool more = false;  // there are marks that were not looked at
};

// Looks at about `limit` marks in the current transaction, a few of each user in turn, beginning
// after the user with whom the last call has ended. Nothing is written for a record that cannot be
// repaired now. Costs one lookup when there are no marks.
RepairCounts repair_dirty_records(int limit);

// Looks at all marks. Returns how many were repaired.
int repair_all_dirty_records();

// Records that are too large for a snapshot are set aside and not tried again. Marks those of which
// a newer row has come since; or all of them.
enum class SetAside : uint8_t { Changed, All };
void retry_oversized_records(SetAside which);

// When the current transaction commits, so many of the changes that could not be marked
// (pg::shared_state::unmarked_changes) are made good for.
void settle_unmarked_at_commit(uint64_t seen);

// Marks, as the current transaction sees them; not more than kMaxCountedMarks are counted. Throws
// PgError.
constexpr int64_t kMaxCountedMarks = 10'000;
int64_t count_dirty_records();

}  // namespace mana_ai
