// Keeping mission_snapshots, agent_snapshots, record_tombstones and mission_schedule equal to the
// replay of the log, one record at a time (docs/architecture.md, "Snapshots"). A log may lose rows:
// what they said is kept.
//
// A record that we have seen has a row in exactly one place: its snapshot table if it is alive, the
// tombstones if it is deleted. Whoever changes a record locks that row first, until its transaction
// ends; whoever moves a record from one place to the other, or sees it for the first time, besides
// holds a short lock on its name while it writes. So two transactions never work on one record at a
// time, and the second one sees what the first has made: either the new row, or a row that an open
// transaction is writing, which means to try again later. Nothing in here waits.
//
// The functions may ereport(ERROR): call them inside pg::guarded().
#pragma once

#include <cstdint>

#include "mana_ai/extension/sync/replay.hpp"
#include "mana_ai/pg/keyed_table.hpp"

namespace mana_ai {

enum class RecordKind : uint8_t { Mission, Agent };

// A record of app 'ai' that we keep a snapshot of.
struct RecordName {
    RecordKind kind;
    RecordKey key;
    uint64_t hash = 0;  // name_hash() of the key, or 0: not known yet
};

// False when the table is not one of ours.
bool kind_of_table(std::string_view table_name, RecordKind* kind);

// Our index rows cannot hold longer ones. Both ids together, in bytes.
constexpr size_t kMaxIdBytes = 1000;
bool ids_fit(const RecordKey& key);

uint64_t name_hash(const RecordKey& key);

// Our tables, opened as they are needed and closed together; what belongs to them lives in the
// memory context that was the current one when the store was opened.
struct SnapshotStore {
    MemoryContext memory;
    Relation log;
    const SyncShape* shape;
    pg::KeyedTable missions, agents, tombstones, schedule;
    // Of keep_record(): if not 0, a row that is applied to a snapshot brings others of our
    // transaction along, past so many that are not; and whether it has brought all.
    uint32_t others_to_pass_over;
    bool has_all_own_rows;
};
void open_store(SnapshotStore& store, Relation log);
void close_store(SnapshotStore& store);

enum class Kept : uint8_t {
    Unchanged,  // also: the user was erased
    Created,    // a snapshot that was not there
    Changed,    // also: a deleted record
    Busy,      // somebody else works on it, or holds one of our tables: try again, or mark it dirty
    NoIndex,   // the log cannot be searched in reasonable time
    TooLong,   // the log has more of it than was to be read
    TooLarge,  // the record does not fit into a jsonb value
};

// Counts what became of a snapshot, if the transaction commits.
void count_kept(Kept kept);

// What the rows of the log are added to: what we hold of the record, or nothing, which forgets all
// that the log does not say any more.
enum class Basis : uint8_t { Held, Nothing };

// Brings the record up to date after a row was inserted that our transaction sees. `row` is applied
// to what is there; nullptr replays the record from the log and compares.
Kept keep_record(SnapshotStore& store, const RecordName& name, const ChangeRow* row,
                 ScanLimit limit, Basis basis = Basis::Held);

// Stores what was folded from all rows that an older snapshot saw, unless there already is the
// same. `folded` does not exist when there was no row. Only valid for a record for which the
// trigger would have made a row, had there been newer rows.
Kept keep_folded_record(SnapshotStore& store, const RecordName& name, const RecordState& folded,
                        Basis basis);

}  // namespace mana_ai
