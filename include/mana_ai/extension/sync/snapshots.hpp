// Maintains mission_snapshots, agent_snapshots, record_tombstones and mission_schedule as the
// replay of the log, one record at a time (docs/architecture.md, "Snapshots"). If the log loses
// rows, what they said is kept.
//
// A record that was seen has a row in exactly one place: its snapshot table if it is live, the
// tombstones if it is deleted. A transaction that changes a record locks that row first, until its
// end. One that moves a record from one place to the other, or sees it for the first time, also
// holds a short lock on its name while it writes. So two transactions never work on one record at a
// time, and the second one sees the result of the first: either the new row, or a row that an open
// transaction is writing, which means to try again later. Nothing in here waits.
//
// The functions may ereport(ERROR): call them inside pg::guarded().
#pragma once

#include <cstdint>

#include "mana_ai/extension/sync/replay.hpp"
#include "mana_ai/pg/keyed_table.hpp"

namespace mana_ai {

enum class RecordKind : uint8_t { Mission, Agent };

// A record of app 'ai' that has a snapshot.
struct RecordName {
    RecordKind kind;
    RecordKey key;
    uint64_t hash = 0;  // name_hash() of the key; 0 = not computed yet
};

// False if records of the table have no snapshots.
bool kind_of_table(std::string_view table_name, RecordKind* kind);

// The limit of index rows, for both ids together, in bytes.
constexpr size_t kMaxIdBytes = 1000;
bool ids_fit(const RecordKey& key);

uint64_t name_hash(const RecordKey& key);

// The extension's tables, opened when needed and closed together. Their memory is in the context
// that was current when the store was opened.
struct SnapshotStore {
    MemoryContext memory;
    Oid log;                 // the attached table, or InvalidOid if `tree` is known
    Oid tree;                // of the records (log_leaves.hpp), or InvalidOid: each has its own
    Relation leaf;           // which has the rows at hand, or nullptr
    const SyncShape* shape;  // of the leaf
    uint64_t place;          // of the leaf
    pg::KeyedTable missions, agents, tombstones, schedule;
    // Of keep_record(): if not 0, a row that is applied to a snapshot brings others of our
    // transaction along, past so many that are not; and whether it has brought all.
    uint32_t others_to_pass_over;
    bool has_all_own_rows;
};
void open_store(SnapshotStore& store, Relation leaf);  // for rows in the leaf
void open_store(SnapshotStore& store, Oid log);        // for any records
void close_store(SnapshotStore& store);

enum class Kept : uint8_t {
    Unchanged,  // also: the user was erased
    Created,    // a snapshot that was not there
    Changed,    // also: a deleted record
    Busy,       // somebody else works on it, or has locked a table: try again, or mark it
    NoIndex,    // the log cannot be searched in reasonable time
    TooLong,    // the log has more of it than may be read
    TooLarge,   // the record does not fit into a jsonb value
};

// Counts the result for a snapshot, if the transaction commits.
void count_kept(Kept kept);

// What the rows of the log are merged into: the stored state of the record, or nothing, which
// forgets everything that is no longer in the log.
enum class Basis : uint8_t { Held, Nothing };

// Updates the record after the insert of a row that our transaction sees. `row` is applied to the
// stored state; nullptr replays the record from the log and compares.
Kept keep_record(SnapshotStore& store, const RecordName& name, const ChangeRow* row,
                 ScanLimit limit, Basis basis = Basis::Held);

// What a fold has read of a record: all that the log has of it, or a part, for which a record that
// is not stored yet is replayed from the log.
enum class FoldedRows : uint8_t { All, Some };

// Stores the fold of rows that an older MVCC snapshot saw, unless the stored state says it all.
// `folded.exists` is false if there was no row. Requires that the trigger has handled all newer
// rows of the record.
Kept keep_folded_record(SnapshotStore& store, const RecordName& name, const RecordState& folded,
                        Basis basis, FoldedRows rows = FoldedRows::All);

}  // namespace mana_ai
