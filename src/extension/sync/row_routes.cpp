// Which partition takes a row: as PostgreSQL's executor decides it, for rows of which only some
// columns are known (log_leaves.hpp).

#include <cstring>

#include "mana_ai/extension/sync/log_leaves.hpp"
#include "mana_ai/pg/record_lock.hpp"
#include "mana_ai/pg/time.hpp"

extern "C" {
#include "access/htup_details.h"
#include "access/relation.h"
#include "access/transam.h"
#include "catalog/partition.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_partitioned_table.h"
#include "catalog/pg_type_d.h"
#include "partitioning/partbounds.h"
#include "partitioning/partdesc.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/partcache.h"
#include "utils/rel.h"
#include "utils/syscache.h"
}

namespace mana_ai {

namespace {

// The columns that a record's rows have in common.
bool is_of_records_name(const char* column) {
    return std::strcmp(column, "user_id") == 0 || std::strcmp(column, "app_id") == 0 ||
           std::strcmp(column, "table_name") == 0 || std::strcmp(column, "record_id") == 0;
}

struct PartitionColumns {
    int count;
    const char* names[PARTITION_MAX_KEYS];  // null: an expression
    // Functions of an operator class may belong to anybody, and may be replaced.
    bool has_foreign_operators;
};

PartitionColumns partition_columns(Oid partitioned) {
    PartitionColumns columns{};
    HeapTuple tuple = SearchSysCache1(PARTRELID, ObjectIdGetDatum(partitioned));
    if (!HeapTupleIsValid(tuple))
        return columns;
    const auto* form = reinterpret_cast<Form_pg_partitioned_table>(GETSTRUCT(tuple));
    for (; columns.count < form->partnatts; columns.count++) {
        const AttrNumber number = form->partattrs.values[columns.count];
        columns.names[columns.count] =
            number > 0 ? get_attname(partitioned, number, true) : nullptr;
    }
    bool is_null = false;
    const Datum classes =
        SysCacheGetAttr(PARTRELID, tuple, Anum_pg_partitioned_table_partclass, &is_null);
    const auto* oids = reinterpret_cast<const oidvector*>(DatumGetPointer(classes));
    for (int i = 0; i < columns.count; i++)
        columns.has_foreign_operators |= oids->values[i] >= FirstNormalObjectId;
    ReleaseSysCache(tuple);
    return columns;
}

bool depends_on_record_alone(Oid partitioned) {
    const PartitionColumns columns = partition_columns(partitioned);
    for (int i = 0; i < columns.count; i++)
        if (columns.names[i] == nullptr || !is_of_records_name(columns.names[i]))
            return false;
    return columns.count > 0;
}

// False: the value is not known, or is not of the type that the column must have.
bool value_of(const RowFacts& row, const char* column, Oid type, Datum* value) {
    if (column == nullptr)
        return false;
    auto text = [&](const char* name, Datum known) {
        if (std::strcmp(column, name) != 0)
            return false;
        *value = known;
        return known != 0 && (type == TEXTOID || type == VARCHAROID);
    };
    if (std::strcmp(column, "created_at") == 0) {
        if (row.created_at == nullptr || type != TIMESTAMPTZOID)
            return false;
        *value = TimestampTzGetDatum(pg::timestamptz_from_instant(*row.created_at));
        return true;
    }
    return text("user_id", row.user_id) || text("app_id", row.app_id) ||
           text("table_name", row.table_name) || text("record_id", row.record_id) ||
           text("op", row.op) || text("client_id", row.client_id);
}

// A fold that has leaves locked must not wait for a session that has locked a table above them and
// waits for the fold.
Relation open_partitioned(Oid oid) {
    constexpr int kPatienceMs = 200;
    constexpr int kPauseMs = 5;
    for (int waited = 0; !ConditionalLockRelationOid(oid, AccessShareLock); waited += kPauseMs) {
        if (waited >= kPatienceMs) {
            const char* name = get_rel_name(oid);
            ereport(ERROR,
                    (errcode(ERRCODE_LOCK_NOT_AVAILABLE),
                     errmsg("could not lock partitioned table \"%s\"", name == nullptr ? "" : name),
                     errhint("Try again when the session that locks it has finished.")));
        }
        pg::sleep_and_check_interrupts(kPauseMs);
    }
    Relation table = try_relation_open(oid, NoLock);
    if (table == nullptr)
        UnlockRelationOid(oid, AccessShareLock);
    return table;
}

enum class Way : uint8_t { Unknown, NoPartition, Known };

// The partition of `table` that takes the row. A key with expressions or with operator classes that
// are not PostgreSQL's own is never looked at (leaves_problem()).
Way partition_for(Relation table, const RowFacts& row, Oid* partition) {
    const PartitionColumns columns = partition_columns(RelationGetRelid(table));
    if (columns.count == 0 || columns.has_foreign_operators)
        return Way::Unknown;
    for (int i = 0; i < columns.count; i++)
        if (columns.names[i] == nullptr)
            return Way::Unknown;
    const PartitionKey key = RelationGetPartitionKey(table);
    Datum values[PARTITION_MAX_KEYS];
    bool nulls[PARTITION_MAX_KEYS] = {};
    for (int i = 0; i < columns.count; i++)
        if (!value_of(row, columns.names[i], key->parttypid[i], &values[i]))
            return Way::Unknown;
    const PartitionDesc partitions = RelationGetPartitionDesc(table, true);
    const PartitionBoundInfo bounds = partitions->boundinfo;
    if (partitions->nparts == 0 || bounds == nullptr)
        return Way::NoPartition;
    int index = -1;
    bool is_equal = false;
    switch (key->strategy) {
        case PARTITION_STRATEGY_HASH: {
            const uint64 hash = compute_partition_hash_value(key->partnatts, key->partsupfunc,
                                                             key->partcollation, values, nulls);
            index = bounds->indexes[hash % bounds->nindexes];
            break;
        }
        case PARTITION_STRATEGY_LIST: {
            const int at = partition_list_bsearch(key->partsupfunc, key->partcollation, bounds,
                                                  values[0], &is_equal);
            if (at >= 0 && is_equal)
                index = bounds->indexes[at];
            break;
        }
        case PARTITION_STRATEGY_RANGE: {
            const int at = partition_range_datum_bsearch(key->partsupfunc, key->partcollation,
                                                         bounds, key->partnatts, values, &is_equal);
            index = bounds->indexes[at + 1];
            break;
        }
        default:
            return Way::Unknown;
    }
    if (index < 0)
        index = bounds->default_index;
    if (index < 0)
        return Way::NoPartition;
    *partition = partitions->oids[index];
    return Way::Known;
}

// The same with the lock. A table that is gone has no partition.
Way way_from(Oid partitioned, const RowFacts& row, Oid* partition) {
    Relation table = open_partitioned(partitioned);
    if (table == nullptr)
        return Way::NoPartition;
    const Way way = partition_for(table, row, partition);
    relation_close(table, AccessShareLock);
    return way;
}

// Follows the row down as far as its way is known. InvalidOid: nothing on this server takes it.
Oid follow(Oid top, const RowFacts& row) {
    for (Oid at = top;;) {
        switch (get_rel_relkind(at)) {
            case RELKIND_RELATION:
                return at;
            case RELKIND_PARTITIONED_TABLE:
                break;
            default:
                return InvalidOid;
        }
        Oid next = InvalidOid;
        const Way way = way_from(at, row, &next);
        if (way == Way::Unknown)
            return at;
        if (way == Way::NoPartition)
            return InvalidOid;
        at = next;
    }
}

// Whether a leaf here may take the row; `nowhere` is then the table that has no partition for it.
bool may_be_taken(Oid at, const RowFacts& row, Oid* nowhere, bool* is_foreign) {
    const char kind = get_rel_relkind(at);
    if (kind == RELKIND_RELATION)
        return true;
    *is_foreign = kind == RELKIND_FOREIGN_TABLE;
    *nowhere = at;
    if (kind != RELKIND_PARTITIONED_TABLE)
        return false;
    Oid next = InvalidOid;
    const Way way = way_from(at, row, &next);
    if (way == Way::NoPartition)
        return false;
    if (way == Way::Known)
        return may_be_taken(next, row, nowhere, is_foreign);
    // Any of them may be the one.
    List* children = find_inheritance_children(at, NoLock);
    ListCell* cell;
    foreach (cell, children)
        if (may_be_taken(lfirst_oid(cell), row, nowhere, is_foreign))
            return true;
    return false;
}

}  // namespace

bool has_foreign_operators(Oid partitioned) {
    return partition_columns(partitioned).has_foreign_operators;
}

bool may_share_records(Oid partition, Oid top) {
    List* ancestors = get_partition_ancestors(partition);
    ListCell* cell;
    foreach (cell, ancestors) {
        if (!depends_on_record_alone(lfirst_oid(cell)))
            return true;
        if (lfirst_oid(cell) == top)
            break;
    }
    return false;
}

Oid tree_of_leaf(Relation leaf) {
    if (!leaf->rd_rel->relispartition)
        return RelationGetRelid(leaf);
    List* ancestors = get_partition_ancestors(RelationGetRelid(leaf));
    for (int i = list_length(ancestors) - 1; i >= 0; i--) {
        const Oid ancestor = list_nth_oid(ancestors, i);
        if (!depends_on_record_alone(ancestor))
            return ancestor;
    }
    return RelationGetRelid(leaf);
}

RowFacts row_of_mission() {
    RowFacts row;
    row.app_id = PointerGetDatum(cstring_to_text("ai"));
    row.table_name = PointerGetDatum(cstring_to_text("aiMissions"));
    row.op = PointerGetDatum(cstring_to_text("update"));
    row.client_id = PointerGetDatum(cstring_to_text("mana-ai-runner"));
    return row;
}

Oid tree_of_record(Oid log, const RecordKey& key) {
    if (get_rel_relkind(log) != RELKIND_PARTITIONED_TABLE)
        return log;
    RowFacts row;
    row.user_id = key.user_id;
    row.app_id = PointerGetDatum(cstring_to_text("ai"));
    row.table_name = key.table_name;
    row.record_id = key.record_id;
    return follow(log, row);
}

Oid tree_of_user(Oid log, Datum user_id) {
    RowFacts row;
    row.user_id = user_id;
    return follow(log, row);
}

const char* row_problem(Oid log, const RowFacts& row) {
    Oid nowhere = InvalidOid;
    bool is_foreign = false;
    if (get_rel_relkind(log) != RELKIND_PARTITIONED_TABLE ||
        may_be_taken(log, row, &nowhere, &is_foreign))
        return nullptr;
    const char* name = get_rel_name(nowhere);
    if (name == nullptr)
        name = "";
    if (is_foreign)
        return psprintf("partition %s, which takes the plan, is on another server", name);
    return psprintf("table %s has no partition that takes a plan", name);
}

}  // namespace mana_ai
