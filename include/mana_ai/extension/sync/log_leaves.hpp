// The relations on this server that hold the rows of the log: an ordinary table holds them itself,
// a partitioned one in its leaf partitions. Foreign partitions do not count: another server's
// mana_ai works on them.
//
// All rows of a record are below one relation, its *tree*: the only leaf that can have them if the
// partitioning above it depends on the record's name alone (HASH by user_id), else the partitioned
// table from which on it depends on more (RANGE by created_at).
//
// The functions may ereport(ERROR): call them inside pg::guarded(). They need no lock on the
// relations and take none, unless it says so.
#pragma once

#include <cstdint>

#include "mana_ai/core/time/instant.hpp"
#include "mana_ai/extension/sync/replay.hpp"
#include "mana_ai/pg/lock_waiters.hpp"

extern "C" {
#include "miscadmin.h"
#include "nodes/pg_list.h"
#include "utils/rel.h"
}

namespace mana_ai {

// Whether functions that are not PostgreSQL's own decide which partition takes a row.
bool has_foreign_operators(Oid partitioned);

// Whether a partition below `top` can have some rows of a record and another one the others.
bool may_share_records(Oid partition, Oid top);

// The tree of the rows in a relation that is, or may be, a leaf.
Oid tree_of_leaf(Relation leaf);

// The leaves below a tree, by ascending oid; cached until one of the relations changes. The list is
// in the current memory context.
List* leaves_of(Oid tree);

// Why the leaves below a relation cannot be read, as a phrase in the current memory context;
// nullptr: they can.
const char* leaves_problem(Oid top);

// Counts up whenever the leaves below the relation, or something about them, may have changed.
uint64_t leaves_version(Oid top);

// Identifies the incarnation of the leaves' files: positions of different ones are not comparable.
uint32_t generation_of(Oid tree);

// What is added to the position of a row in the leaf, so that rows of a tree are ordered by leaf
// and then by their place in it.
uint64_t place_of(Oid tree, Oid leaf);

enum class LeafOpened : uint8_t { Opened, Busy, Gone };

// Opens a leaf for reading below SQL, with AccessShareLock, and checks it. `wait`: for the lock.
LeafOpened open_leaf(Oid leaf, bool wait, Relation* relation);
void close_leaf(Relation leaf);  // also releases the lock

// Locks what replay_record() opens besides the leaf, without waiting.
bool try_lock_indexes(Relation leaf, List** locked);
void unlock_indexes(List* locked);

// Leaves that are read for long. Who waits for the lock of one (DROP, DETACH, ALTER TABLE) keeps
// writers waiting: look() then raises 55P03.
struct LeavesInUse {
    List* leaves = NIL;
    uint32_t calls = 0;
    core::Instant next_look = 0;
    pg::LockWaiters waiters;
};
void look_for_waiters(LeavesInUse& in_use);
inline void look(LeavesInUse& in_use) {
    CHECK_FOR_INTERRUPTS();
    if (++in_use.calls % 64 == 0)
        look_for_waiters(in_use);
}

// What is known of a row. Null: not known.
struct RowFacts {
    Datum user_id = 0;
    Datum app_id = 0;
    Datum table_name = 0;
    Datum record_id = 0;
    Datum op = 0;
    Datum client_id = 0;
    const core::Instant* created_at = nullptr;
};

// What is known of every row that mana_ai writes.
RowFacts row_of_mission();

// The tree that holds the record, or InvalidOid: there is no partition for it on this server. Locks
// partitioned tables in share mode for a moment.
Oid tree_of_record(Oid log, const RecordKey& key);
// The smallest relation whose leaves hold all rows of the user; likewise.
Oid tree_of_user(Oid log, Datum user_id);

// Why the row could not be inserted into a leaf on this server, as a sentence in the current memory
// context; nullptr: it could, or that depends on what is not known.
const char* row_problem(Oid log, const RowFacts& row);

}  // namespace mana_ai
