#include "mana_ai/extension/sync/own_tables.hpp"

extern "C" {
#include "catalog/namespace.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
}

namespace mana_ai {

namespace {

OwnTables tables;
bool valid = false;
DirtyTable dirty;
bool dirty_valid = false;
bool callback_registered = false;

void forget_changed_relation(Datum, Oid relation) {
    if (!OidIsValid(relation) || relation == tables.missions.oid || relation == tables.agents.oid ||
        relation == tables.tombstones.oid || relation == tables.schedule.oid)
        valid = false;
    if (!OidIsValid(relation) || relation == dirty.oid)
        dirty_valid = false;
}

void register_callback() {
    if (callback_registered)
        return;
    CacheRegisterRelcacheCallback(forget_changed_relation, Datum{0});
    callback_registered = true;
}

Oid table_oid(Oid schema, const char* name) {
    const Oid oid = get_relname_relid(name, schema);
    if (!OidIsValid(oid))
        ereport(ERROR, (errcode(ERRCODE_UNDEFINED_TABLE),
                        errmsg("table \"mana_ai.%s\" does not exist", name)));
    return oid;
}

AttrNumber column(Oid table, const char* name) {
    const AttrNumber number = get_attnum(table, name);
    if (number == InvalidAttrNumber)
        ereport(ERROR, (errcode(ERRCODE_UNDEFINED_COLUMN),
                        errmsg("column \"%s\" of table \"mana_ai.%s\" does not exist", name,
                               get_rel_name(table))));
    return number;
}

SnapshotTable snapshot_table(Oid oid, const char* record_id) {
    return {oid,
            column(oid, "user_id"),
            column(oid, record_id),
            column(oid, "space_id"),
            column(oid, "record"),
            column(oid, "clocks"),
            column(oid, "version"),
            column(oid, "last_applied_at"),
            column(oid, "updated_at"),
            get_attnum(oid, "problems")};
}

}  // namespace

const OwnTables& own_tables() {
    if (valid)
        return tables;
    register_callback();
    const Oid schema = get_namespace_oid("mana_ai", false);
    OwnTables found{};
    found.missions = snapshot_table(table_oid(schema, "mission_snapshots"), "mission_id");
    found.agents = snapshot_table(table_oid(schema, "agent_snapshots"), "agent_id");
    const Oid tombstones = table_oid(schema, "record_tombstones");
    found.tombstones = {tombstones, column(tombstones, "user_id"), column(tombstones, "table_name"),
                        column(tombstones, "record_id"), column(tombstones, "deleted_at")};
    const Oid schedule = table_oid(schema, "mission_schedule");
    found.schedule = {schedule,
                      column(schedule, "user_id"),
                      column(schedule, "mission_id"),
                      column(schedule, "wake_at"),
                      column(schedule, "due_at"),
                      column(schedule, "not_before"),
                      column(schedule, "agent_id"),
                      column(schedule, "lease_owner"),
                      column(schedule, "attempts"),
                      column(schedule, "research_spent")};
    tables = found;
    valid = true;
    return tables;
}

const DirtyTable& dirty_table() {
    if (dirty_valid)
        return dirty;
    register_callback();
    const Oid schema = get_namespace_oid("mana_ai", false);
    const Oid oid = table_oid(schema, "dirty_records");
    dirty = {oid,
             column(oid, "id"),
             column(oid, "user_id"),
             column(oid, "table_name"),
             column(oid, "record_id"),
             column(oid, "reason"),
             column(oid, "ts"),
             table_oid(schema, "dirty_records_id_seq")};
    dirty_valid = true;
    return dirty;
}

}  // namespace mana_ai
