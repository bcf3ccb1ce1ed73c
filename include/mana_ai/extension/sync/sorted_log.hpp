// The rows of all missions and agents in the log, sorted by record, for folds of the whole history.
//
// The table belongs to another role, so it is scanned and sorted below SQL: planning a query would
// evaluate expressions of its indexes, which are its owner's code, with our privileges. Values
// stored out of line are sorted as references: to read them, the MVCC snapshot of the scan is
// needed.
//
// The functions may ereport(ERROR): call them inside pg::guarded().
#pragma once

#include <type_traits>

#include "mana_ai/extension/sync/log_leaves.hpp"
#include "mana_ai/extension/sync/snapshots.hpp"

extern "C" {
#include "storage/block.h"
#include "utils/tuplesort.h"
}

namespace mana_ai {

struct SortedRow {
    RecordKind kind;
    Datum user_id, record_id;
    Oid tree;                // of the row, or InvalidOid
    bool is_row;             // false: only the name of a record was added
    ChangeRowValues values;  // valid until the next row
};

class SortedLog {
 public:
    void begin();
    void add_rows(Relation leaf, LeavesInUse& in_use, Snapshot snapshot);
    // Adds rows of one kind of record, or only the records' names, from block `part.first` on.
    // Returns the block after the last that was read: no more than `part.end`, and no further when
    // there are that many rows or that time has come.
    struct Part {
        RecordKind kind;
        bool only_names;
        BlockNumber first, end;
        int64_t rows;
        core::Instant until;  // on the monotonic clock
    };
    BlockNumber add_part(Relation leaf, LeavesInUse& in_use, Snapshot snapshot, const Part& part);
    // Adds the names of all stored records, so that they appear even without rows.
    void add_held_records(Snapshot snapshot);
    void sort();
    bool next(SortedRow& row);
    void end();

 private:
    bool put_row(TupleTableSlot* slot, const SyncShape& shape, uint64_t place, const Part* part,
                 MemoryContext row_memory);
    void put(Datum user_id, Datum record_id, RecordKind kind, Oid tree,
             const ChangeRowValues* values);
    void add_names(Oid table, AttrNumber user_id, AttrNumber record_id, AttrNumber table_name,
                   RecordKind kind, Snapshot snapshot);

    Tuplesortstate* sort_;
    TupleTableSlot* input_;
    TupleTableSlot* output_;
};

static_assert(std::is_trivially_destructible_v<SortedLog>);

}  // namespace mana_ai
