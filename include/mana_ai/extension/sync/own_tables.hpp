// Where our own tables are, for code that works below SQL. Cached until one of them changes.
//
// May ereport(ERROR): call it inside pg::guarded().
#pragma once

#include "mana_ai/pg/postgres.hpp"

extern "C" {
#include "access/attnum.h"
}

namespace mana_ai {

struct SnapshotTable {
    Oid oid;
    AttrNumber user_id, record_id, space_id, record, clocks, version, last_applied_at, updated_at;
    AttrNumber problems;  // 0: not kept of this kind of record
};

struct TombstoneTable {
    Oid oid;
    AttrNumber user_id, table_name, record_id, deleted_at;
};

struct ScheduleTable {
    Oid oid;
    AttrNumber user_id, mission_id, wake_at, due_at, not_before, agent_id, lease_owner, attempts,
        research_spent;
};

struct DirtyTable {
    Oid oid;
    AttrNumber id, user_id, table_name, record_id, reason, ts;
    Oid id_sequence;
};

struct OwnTables {
    SnapshotTable missions;
    SnapshotTable agents;
    TombstoneTable tombstones;
    ScheduleTable schedule;
};

const OwnTables& own_tables();

// Apart from the others: a record must be markable while one of them is not as it should be.
const DirtyTable& dirty_table();

}  // namespace mana_ai
