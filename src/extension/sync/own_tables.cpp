#include "mana_ai/extension/sync/own_tables.hpp"

#include <initializer_list>

#include "mana_ai/pg/relation_changes.hpp"

extern "C" {
#include "catalog/namespace.h"
#include "catalog/pg_type_d.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
}

namespace mana_ai {

namespace {

OwnTables tables;
bool valid = false;
DirtyTable dirty;
bool dirty_valid = false;
bool any_additions = false;
uint64_t additions_known_at = 0;  // the relation_changes() then

void forget_changed_relation(Oid relation) {
    if (!OidIsValid(relation) || relation == tables.missions.key.table ||
        relation == tables.agents.key.table || relation == tables.tombstones.key.table ||
        relation == tables.schedule.key.table)
        valid = false;
    if (!OidIsValid(relation) || relation == dirty.key.table)
        dirty_valid = false;
}

Oid table_oid(Oid schema, const char* name) {
    const Oid oid = get_relname_relid(name, schema);
    if (!OidIsValid(oid))
        ereport(ERROR, (errcode(ERRCODE_UNDEFINED_TABLE),
                        errmsg("table \"mana_ai.%s\" does not exist", name)));
    return oid;
}

AttrNumber column(Oid table, const char* name, Oid type) {
    const AttrNumber number = get_attnum(table, name);
    if (number == InvalidAttrNumber)
        ereport(ERROR, (errcode(ERRCODE_UNDEFINED_COLUMN),
                        errmsg("column \"%s\" of table \"mana_ai.%s\" does not exist", name,
                               get_rel_name(table))));
    if (get_atttype(table, number) != type)
        ereport(ERROR, (errcode(ERRCODE_DATATYPE_MISMATCH),
                        errmsg("column \"%s\" of table \"mana_ai.%s\" is not of type %s", name,
                               get_rel_name(table), format_type_be(type))));
    return number;
}

uint64_t bits_of(std::initializer_list<AttrNumber> columns) {
    uint64_t bits = 0;
    for (const AttrNumber number : columns)
        if (number <= 64)
            bits |= uint64_t{1} << (number - 1);
    return bits;
}

SnapshotTable snapshot_table(Oid oid, const char* record_id) {
    SnapshotTable table{{},
                        column(oid, "user_id", TEXTOID),
                        column(oid, record_id, TEXTOID),
                        column(oid, "space_id", TEXTOID),
                        column(oid, "record", JSONBOID),
                        column(oid, "clocks", BYTEAOID),
                        column(oid, "version", INT8OID),
                        column(oid, "last_applied_at", TIMESTAMPTZOID),
                        column(oid, "updated_at", TIMESTAMPTZOID),
                        InvalidAttrNumber};
    if (get_attnum(oid, "problems") != InvalidAttrNumber)
        table.problems = column(oid, "problems", TEXTARRAYOID);
    table.key = {oid,
                 {table.user_id, table.record_id},
                 2,
                 bits_of({table.user_id, table.record_id, table.record, table.clocks, table.version,
                          table.last_applied_at, table.updated_at})};
    return table;
}

TombstoneTable tombstone_table(Oid oid) {
    TombstoneTable table{{},
                         column(oid, "user_id", TEXTOID),
                         column(oid, "table_name", TEXTOID),
                         column(oid, "record_id", TEXTOID),
                         column(oid, "deleted_at", TIMESTAMPTZOID),
                         InvalidAttrNumber,
                         InvalidAttrNumber};
    if (get_attnum(oid, "space_id") != InvalidAttrNumber)
        table.space_id = column(oid, "space_id", TEXTOID);
    if (get_attnum(oid, "was_whole") != InvalidAttrNumber)
        table.was_whole = column(oid, "was_whole", BOOLOID);
    table.key = {oid,
                 {table.user_id, table.table_name, table.record_id},
                 3,
                 bits_of({table.user_id, table.table_name, table.record_id, table.deleted_at})};
    return table;
}

ScheduleTable schedule_table(Oid oid) {
    ScheduleTable table{{},
                        column(oid, "user_id", TEXTOID),
                        column(oid, "mission_id", TEXTOID),
                        column(oid, "wake_at", TIMESTAMPTZOID),
                        column(oid, "due_at", TIMESTAMPTZOID),
                        column(oid, "not_before", TIMESTAMPTZOID),
                        column(oid, "agent_id", TEXTOID),
                        column(oid, "lease_owner", INT8OID),
                        column(oid, "attempts", INT4OID),
                        column(oid, "research_spent", BOOLOID),
                        InvalidAttrNumber,
                        InvalidAttrNumber};
    if (get_attnum(oid, "check_iterations_at") != InvalidAttrNumber)
        table.check_iterations_at = column(oid, "check_iterations_at", TIMESTAMPTZOID);
    if (get_attnum(oid, "woken_at") != InvalidAttrNumber)
        table.woken_at = column(oid, "woken_at", TIMESTAMPTZOID);
    table.key = {oid,
                 {table.user_id, table.mission_id},
                 2,
                 bits_of({table.user_id, table.mission_id, table.attempts, table.research_spent}),
                 table.agent_id};
    return table;
}

OwnTables find_tables() {
    const Oid schema = get_namespace_oid("mana_ai", false);
    return {snapshot_table(table_oid(schema, "mission_snapshots"), "mission_id"),
            snapshot_table(table_oid(schema, "agent_snapshots"), "agent_id"),
            tombstone_table(table_oid(schema, "record_tombstones")),
            schedule_table(table_oid(schema, "mission_schedule"))};
}

DirtyTable find_dirty_table() {
    const Oid oid = table_oid(get_namespace_oid("mana_ai", false), "dirty_records");
    DirtyTable table{{},
                     column(oid, "id", UUIDOID),
                     column(oid, "user_id", TEXTOID),
                     column(oid, "table_name", TEXTOID),
                     column(oid, "record_id", TEXTOID),
                     column(oid, "reason", TEXTOID),
                     column(oid, "ts", TIMESTAMPTZOID)};
    table.key = {oid,
                 {table.user_id, table.table_name, table.record_id},
                 3,
                 bits_of({table.id, table.user_id, table.table_name, table.record_id, table.reason,
                          table.ts})};
    return table;
}

}  // namespace

// If a table changes during the lookups, their result is used for this call only.
const OwnTables& own_tables() {
    if (valid)
        return tables;
    pg::on_relation_change(forget_changed_relation);
    const uint64_t before = pg::relation_changes();
    tables = find_tables();
    valid = before == pg::relation_changes();
    return tables;
}

bool known_additions(bool& has_additions) {
    if (!valid || additions_known_at != pg::relation_changes())
        return false;
    has_additions = any_additions;
    return true;
}

bool find_additions() {
    const uint64_t before = pg::relation_changes();
    bool found = false;
    own_tables();
    for (const pg::TableKey* key :
         {&tables.missions.key, &tables.agents.key, &tables.tombstones.key, &tables.schedule.key}) {
        pg::KeyedTable table;
        if (!pg::try_lock_table(key->table) || !pg::open_keyed_table(table, *key))
            return true;
        found = found || table.has_additions;
        pg::close_keyed_table(table);
    }
    if (before == pg::relation_changes()) {
        any_additions = found;
        additions_known_at = before;
    }
    return found;
}

const DirtyTable& dirty_table() {
    if (dirty_valid)
        return dirty;
    pg::on_relation_change(forget_changed_relation);
    const uint64_t before = pg::relation_changes();
    dirty = find_dirty_table();
    dirty_valid = before == pg::relation_changes();
    return dirty;
}

}  // namespace mana_ai
