// Rows of our own tables by key, below SQL: an index lookup, a lock that never waits, and insert,
// update and delete as logical replication applies them: column defaults, generated columns, NOT
// NULL and CHECK constraints, every kind of index that does not need to wait, and the table's
// replica identity count. Row triggers, rules and policies do not: they would run in the session of
// whoever inserted into the log. Expressions that an administrator has added are evaluated as the
// table's owner, as maintenance commands do.
//
// In this way the trigger does not depend on the inserting session: neither on its privileges,
// row-level security, isolation level and search_path, nor on a planner.
//
// A row that cannot be written raises an error: because of a constraint, of a unique index in which
// another transaction has the value (nobody waits for it), or of an exclusion constraint, which
// cannot be checked without waiting. A table that is not a plain heap, or lacks the key index,
// raises when it is opened.
//
// The functions may ereport(ERROR): call them inside guarded().
#pragma once

#include <cstdint>

#include "mana_ai/pg/postgres.hpp"

extern "C" {
#include "access/attnum.h"
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
    int key_columns = 0;
    // A write may raise because of what an administrator has added: constraints, defaults, indexes
    // that are unique, evaluate expressions or hold long values, publications.
    bool has_additions = false;
};

enum class Lookup : uint8_t {
    Missing,
    Found,
    Busy,  // an open transaction is writing the row or, if it is to be locked, holds it
};

// A table, and the text columns of its key: an index must begin with them.
struct TableKey {
    Oid table = InvalidOid;
    AttrNumber columns[kMaxKeyColumns] = {};
    int count = 0;
    uint64_t never_null = 0;  // bit n: column n + 1 has a value in every row that we insert
    AttrNumber short_text = InvalidAttrNumber;  // outside the key: its values fit into an index
};

// Locks the table for writing rows, until the transaction ends; false when it would have to wait.
bool try_lock_table(Oid table);

// Opens the table, which the caller has locked; false if it no longer exists.
bool open_keyed_table(KeyedTable& keyed, const TableKey& key);
void close_keyed_table(KeyedTable& keyed);

// Looks for the newest version of a row, whatever the transaction's snapshot says. `key` holds text
// values, one for each column of the key index. Leaves no trace for SERIALIZABLE transactions to
// fail on.
//
// peek_row() locks nothing: the row may change as soon as it returns. To write the row use
// try_update_row(), to act on it in another way lock_seen_row(). Missing may be wrong if an update
// that commits at this moment moves the row to another index entry.
//
// lock_row_for_sure() locks the row until the end of the (sub)transaction, and its Missing is
// reliable. Its cost grows with the number of dead versions of the row.
Lookup peek_row(KeyedTable& keyed, const Datum* key);
Lookup lock_row_for_sure(KeyedTable& keyed, const Datum* key);

// Locks the row that the last lookup found; false when somebody has changed or locked it since.
bool lock_seen_row(KeyedTable& keyed);

// Whether any transaction, including this one, may have locked the row that the last lookup found.
// False is no guarantee for the next moment.
bool may_be_locked(const KeyedTable& keyed);

// For tables that may have several rows of one key, which are never updated. Whether there is a row
// that is committed or our own, and that stays until our transaction ends: it is share-locked.
bool hold_any_row(KeyedTable& keyed, const Datum* key);

// How many rows there are, also of open transactions, with these first columns of the key.
int count_rows(KeyedTable& keyed, const Datum* key, int columns, int limit);

// A row of values to write. A column that is not `given` keeps its value, or gets its default.
struct RowValues {
    Datum* values;
    bool* nulls;
    bool* given;
};
RowValues row_values(Relation table);  // none given; in the current memory context
void give(RowValues& row, AttrNumber column, Datum value, bool present = true);

void insert_row(KeyedTable& keyed, const RowValues& row);

// Changes the row in the slot, which peek_row() has found; false, with nothing done, if somebody
// has changed or locked it since. Takes no lock first, which would be an additional WAL record.
bool try_update_row(KeyedTable& keyed, const RowValues& row);

// Changes or deletes the row in the slot, which is locked.
void update_row(KeyedTable& keyed, const RowValues& row);
void delete_row(KeyedTable& keyed);

}  // namespace mana_ai::pg
