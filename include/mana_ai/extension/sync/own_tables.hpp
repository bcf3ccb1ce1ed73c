// The oids and columns of the extension's tables, for code below SQL. Cached until one of them
// changes. A missing table or column, or one of another type, raises.
//
// May ereport(ERROR): call it inside pg::guarded().
#pragma once

#include "mana_ai/pg/keyed_table.hpp"

namespace mana_ai {

struct SnapshotTable {
    pg::TableKey key;
    AttrNumber user_id, record_id, space_id, record, clocks, version, last_applied_at, updated_at;
    AttrNumber problems;  // 0: not stored for this kind of record
};

struct TombstoneTable {
    pg::TableKey key;
    AttrNumber user_id, table_name, record_id, deleted_at;
    AttrNumber space_id, was_whole;  // 0: installed as version 0.1.0
};

struct ScheduleTable {
    pg::TableKey key;
    AttrNumber user_id, mission_id, wake_at, due_at, not_before, agent_id, lease_owner, attempts,
        research_spent;
    AttrNumber check_iterations_at, woken_at;  // 0: installed as version 0.1.0
};

struct DirtyTable {
    pg::TableKey key;
    AttrNumber id, user_id, table_name, record_id, reason, ts;
};

struct OwnTables {
    SnapshotTable missions;
    SnapshotTable agents;
    TombstoneTable tombstones;
    ScheduleTable schedule;
};

const OwnTables& own_tables();

// Whether a write to one of them may fail because of an administrator's additions
// (KeyedTable::has_additions). known_additions() reads only the cache and returns false if that is
// empty; find_additions() locks the tables, counts one that is locked as true, and caches the
// result.
bool known_additions(bool& has_additions);
bool find_additions();

// Separate from the others: marking must work while one of them is invalid.
const DirtyTable& dirty_table();

}  // namespace mana_ai
