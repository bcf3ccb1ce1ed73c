// Rows of our own tables by primary key, below SQL: an index lookup, a lock that never waits, and
// insert, update and delete as the system catalogs are written.
//
// The trigger works this way because it then depends on nothing of the inserting session: neither
// on its rights, row-level security, isolation level and search_path, nor on a planner. Only for
// tables of ours, which have no triggers, constraints beyond NOT NULL and CHECKs that the caller
// keeps.
//
// The functions may ereport(ERROR): call them inside guarded().
#pragma once

#include <cstdint>

#include "mana_ai/pg/postgres.hpp"

extern "C" {
#include "access/genam.h"
#include "executor/tuptable.h"
#include "storage/itemptr.h"
#include "storage/lockdefs.h"
#include "utils/rel.h"
#include "utils/snapshot.h"
}

namespace mana_ai::pg {

inline constexpr int kMaxKeyColumns = 4;

struct KeyedTable {
    Relation table = nullptr;
    Relation key_index = nullptr;
    TupleTableSlot* slot = nullptr;  // the row that the last lookup found
};

enum class Lookup : uint8_t {
    Missing,
    Found,
    Busy,  // an open transaction is writing or holding the row, or has just written it
};

// Takes the lock without waiting; false when it is not to be had now or the table is gone. The
// table must be a heap with a primary key of text columns.
bool open_keyed_table(KeyedTable& keyed, Oid table, LOCKMODE lock);
void close_keyed_table(KeyedTable& keyed);

// Looks for the newest version of a row, whatever the transaction's snapshot says, and locks it
// until the end of the (sub)transaction. `key` holds text values, one for each column of the key
// index. Leaves no trace for SERIALIZABLE transactions to fail on.
//
// Missing may be wrong when the row is being moved to another index entry by an update that commits
// at this very moment. Who acts on it makes sure with lock_row_for_sure(), which costs more the
// more dead versions of the row there are.
Lookup lock_row(KeyedTable& keyed, const Datum* key);
Lookup lock_row_for_sure(KeyedTable& keyed, const Datum* key);

// The same as lock_row() without locking: the row may change as soon as this returns.
Lookup peek_row(KeyedTable& keyed, const Datum* key);

void insert_row(KeyedTable& keyed, const Datum* values, const bool* nulls);

// Changes or deletes the row in the slot, which lock_row() has locked.
void update_row(KeyedTable& keyed, const Datum* values, const bool* nulls, const bool* replace);
void delete_row(KeyedTable& keyed);

}  // namespace mana_ai::pg
