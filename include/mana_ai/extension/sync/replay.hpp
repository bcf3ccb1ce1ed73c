// The replay of a record's rows from the log (docs/contract/data.md, Field-level last-writer-wins).
//
// The functions may ereport(ERROR): call them inside pg::guarded().
#pragma once

#include <cstdint>

#include "mana_ai/extension/sync/clock_vector.hpp"
#include "mana_ai/extension/sync/lww_record.hpp"
#include "mana_ai/extension/sync/sync_table.hpp"

extern "C" {
#include "utils/snapshot.h"
}

namespace mana_ai {

// Accumulates the rows of one record, in bounded memory: from time to time the state is serialized
// and the rows behind it are released. A state that is set before the first row is what the rows
// are merged into.
struct Fold {
    MemoryContext memory;  // holds the state and the rows that it borrows from
    RecordState state;
    int64_t rows;
    const ChangeRow* known;  // a row of the log that was read already, or nullptr
    PlaceLost rule;
    bool is_spoilt;                // under PlaceLost::AskLog: the log must be replayed
    size_t settled_size;           // of `memory` when the state was last serialized
    size_t left_to_read;           // of begin_replay()
    uint64_t place;                // of the leaf that is read (log_leaves.hpp)
    uint32_t others_to_pass_over;  // under ScanLimit::OnlyOwn
    const ClockBounds* bounds;     // nullptr: all writes count
};

// A process that works for all users (a worker, a manual tick) does not read a value of more than
// 16 MB, which would take many times as much memory and delay everybody: this raises 54000. So does
// fold_row() for a row of the log, and for a state that grows to four times that size. In every
// process it does so for a state that is too large for jsonb.
void check_background_size(TupleTableSlot* slot, AttrNumber column);

void begin_fold(Fold& fold);  // in a child of the current context
void fold_row(Fold& fold, const ChangeRowValues& values);
void fold_row(Fold& fold, TupleTableSlot* slot, const SyncShape& shape);
void restart_fold(Fold& fold);  // for the next record
void end_fold(Fold& fold);

// A record of app 'ai'; text values.
struct RecordKey {
    Datum user_id;
    Datum table_name;
    Datum record_id;
};

enum class ScanLimit : uint8_t {
    FewRows,      // give up if the search would take long or there is much to read: a session
                  // must not pay for a long history with each of its inserts
    FewOfOthers,  // the same, but rows of our own transaction do not count
    OnlyOwn,      // no others; up to others_to_pass_over of them are skipped
    None,
};

enum class Replayed : uint8_t { Done, NoIndex, TooLong, Busy };

// Before the first leaf of a record is read.
void begin_replay(Fold& fold, ScanLimit limit);

// Folds the rows in a leaf that the MVCC snapshot sees, bypassing row-level security. If it gives
// up, only some of the rows have been folded.
Replayed replay_record(Relation leaf, const SyncShape& shape, const RecordKey& key,
                       Snapshot snapshot, ScanLimit limit, Fold& fold);

}  // namespace mana_ai
