// Marks of records whose snapshot the trigger could not update, and their repair from the log
// (docs/contract/data.md, sync_changes).
#pragma once

#include <string>

#include "mana_ai/extension/sync/replay.hpp"

namespace mana_ai {

// What has a mark: a record, or all records of a user who has too many marks.
enum class Marked : uint8_t { Record, User, TableIsLocked };

// The number of a user's marks, counted once per transaction.
struct UserMarks {
    uint64_t user_hash = 0;
    int count = -1;  // not counted yet
};
uint64_t user_hash(const RecordKey& key);  // may ereport(ERROR)

// Marks a record without waiting. A record has one mark, however often it is marked: an existing
// mark is protected from removal until our transaction ends. Ids that no index can hold are only
// counted, since no repair can change that. May ereport(ERROR): call it inside pg::guarded().
// `reason` is a short text for operators without quotes of the row.
Marked try_mark_dirty(const RecordKey& key, const char* reason, UserMarks& marks);

// The same, but may wait. Raises 55P03 if somebody else has locked the table of marks for longer
// than a second.
void mark_dirty(const RecordKey& key, const char* reason);

struct RepairCounts {
    int repaired = 0;
    int left = 0;       // tried, but cannot be repaired now
    bool more = false;  // there are marks that were not tried
};

// Tries about `limit` marks in the current transaction, a few of each user in turn, beginning after
// the last call's last user. Writes nothing for a record that cannot be repaired now. Costs one
// lookup if there are no marks.
RepairCounts repair_dirty_records(int limit);

// Replays one record from the log in the current transaction, marked or not. Nullptr: its snapshot
// is correct now; else why not, and the changes must be undone. Throws PgError.
const char* replay_one_record(const std::string& user_id, const std::string& table_name,
                              const std::string& record_id);

// Tries all marks. Returns how many were repaired.
int repair_all_dirty_records();

// Records that are too large for a snapshot are set aside and not tried again. Marks those with a
// newer row since then; or all of them.
enum class SetAside : uint8_t { Changed, All };
void retry_oversized_records(SetAside which);

// When the current transaction commits, this many of the changes that could not be marked
// (pg::shared_state::unmarked_changes) are folded.
void settle_unmarked_at_commit(uint64_t seen);

// The number of marks that the current transaction sees, at most kMaxCountedMarks. Throws PgError.
constexpr int64_t kMaxCountedMarks = 10'000;
int64_t count_dirty_records();

}  // namespace mana_ai
