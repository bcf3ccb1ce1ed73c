#include "mana_ai/extension/sync/sync_table.hpp"

#include <cstring>

#include "mana_ai/extension/sync/log_leaves.hpp"
#include "mana_ai/pg/detoast.hpp"
#include "mana_ai/pg/guard.hpp"
#include "mana_ai/pg/relation_changes.hpp"
#include "mana_ai/pg/text.hpp"
#include "mana_ai/pg/time.hpp"

extern "C" {
#include "access/genam.h"
#include "access/htup_details.h"
#include "access/relation.h"
#include "access/table.h"
#include "catalog/dependency.h"
#include "catalog/indexing.h"
#include "catalog/namespace.h"
#include "catalog/pg_am_d.h"
#include "catalog/pg_class.h"
#include "catalog/pg_depend.h"
#include "catalog/pg_index.h"
#include "catalog/pg_opfamily.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_trigger.h"
#include "catalog/pg_type_d.h"
#include "commands/trigger.h"
#include "storage/itemptr.h"
#include "utils/fmgroids.h"
#include "utils/hsearch.h"
#include "utils/lsyscache.h"
#include "utils/relcache.h"
#include "utils/syscache.h"
}

namespace mana_ai {

namespace {

// A log has one shape, or one for each leaf. That of a dropped table stays.
struct CachedShape {
    Oid relation;  // the key
    bool is_valid;
    SyncShape shape;
};
HTAB* shapes = nullptr;
const CachedShape* last_shape = nullptr;  // that was asked for; valid if it says so

Oid attached_cache = InvalidOid;

void forget_shapes_of(Oid relation) {
    if (shapes == nullptr)
        return;
    if (OidIsValid(relation)) {
        auto* cached =
            static_cast<CachedShape*>(hash_search(shapes, &relation, HASH_FIND, nullptr));
        if (cached != nullptr)
            cached->is_valid = false;
        return;
    }
    HASH_SEQ_STATUS all;
    hash_seq_init(&all, shapes);
    while (auto* cached = static_cast<CachedShape*>(hash_seq_search(&all)))
        cached->is_valid = false;
}

void forget_changed_relation(Oid relation) {
    forget_shapes_of(relation);
    if (!OidIsValid(relation) || relation == attached_cache)
        attached_cache = InvalidOid;
}

CachedShape& cached_shape(Oid relation) {
    if (shapes == nullptr) {
        HASHCTL control{};
        control.keysize = sizeof(Oid);
        control.entrysize = sizeof(CachedShape);
        shapes = hash_create("mana_ai shapes of the log", 16, &control, HASH_ELEM | HASH_BLOBS);
    }
    bool found = false;
    auto* cached = static_cast<CachedShape*>(hash_search(shapes, &relation, HASH_ENTER, &found));
    if (!found)
        cached->is_valid = false;
    return *cached;
}

AttrNumber column_number(TupleDesc descriptor, const char* name, Oid* type) {
    for (int i = 0; i < descriptor->natts; i++) {
        const FormData_pg_attribute* column = TupleDescAttr(descriptor, i);
        if (!column->attisdropped && std::strcmp(NameStr(column->attname), name) == 0) {
            *type = column->atttypid;
            return column->attnum;
        }
    }
    return InvalidAttrNumber;
}

bool is_text(Oid type) {
    return type == TEXTOID || type == VARCHAROID;
}

void require_column(SyncShape& shape, TupleDesc descriptor, const char* name, Oid wanted,
                    AttrNumber* number) {
    Oid type = InvalidOid;
    *number = column_number(descriptor, name, &type);
    const bool fits = wanted == TEXTOID ? is_text(type) : type == wanted;
    if (*number != InvalidAttrNumber && fits)
        return;
    const bool is_there = *number != InvalidAttrNumber;
    *number = InvalidAttrNumber;
    if (shape.missing_column != nullptr)
        return;
    shape.missing_column = name;
    shape.wrong_type = is_there;
    shape.expected_type = wanted == TEXTOID    ? "text"
                          : wanted == JSONBOID ? "jsonb"
                                               : "timestamp with time zone";
}

AttrNumber optional_column(TupleDesc descriptor, const char* name, bool must_be_text) {
    Oid type = InvalidOid;
    const AttrNumber number = column_number(descriptor, name, &type);
    return must_be_text && !is_text(type) ? InvalidAttrNumber : number;
}

// Reads the catalog's row instead of RelationGetIndexPredicate(), which evaluates constant parts of
// the expression, the table owner's code, with our privileges.
bool is_partial(Relation index) {
    return !heap_attisnull(index->rd_indextuple, Anum_pg_index_indpred, nullptr);
}

// How many leading columns of the index are fixed for one record, and the keys to search them.
int usable_keys(const SyncShape& shape, Relation index, LogIndexKey* keys, bool* finds_record) {
    *finds_record = false;
    const Form_pg_index form = index->rd_index;
    if (index->rd_rel->relam != BTREE_AM_OID || !form->indisvalid || !form->indislive ||
        is_partial(index))
        return 0;
    int count = 0;
    const int columns = IndexRelationGetNumberOfKeyAttributes(index);
    while (count < columns && count < kMaxLogIndexKeys) {
        const AttrNumber column = form->indkey.values[count];
        LogIndexKey& key = keys[count];
        using Column = LogIndexKey::Column;
        if (column == InvalidAttrNumber)
            break;  // an expression
        if (column == shape.app_id)
            key.column = Column::AppId;
        else if (column == shape.table_name)
            key.column = Column::TableName;
        else if (column == shape.record_id)
            key.column = Column::RecordId;
        else if (column == shape.user_id)
            key.column = Column::UserId;
        else
            break;
        const Oid type = index->rd_opcintype[count];
        const Oid equals =
            get_opfamily_member(index->rd_opfamily[count], type, type, BTEqualStrategyNumber);
        if (type != TEXTOID || !OidIsValid(equals))
            break;
        key.collation = index->rd_indcollation[count];
        key.equals = get_opcode(equals);
        *finds_record = *finds_record || key.column == Column::RecordId;
        count++;
    }
    return count;
}

void choose_index(SyncShape& shape, Relation relation) {
    int best = 0;
    List* indexes = RelationGetIndexList(relation);
    ListCell* cell;
    foreach (cell, indexes) {
        Relation index = index_open(lfirst_oid(cell), AccessShareLock);
        LogIndexKey keys[kMaxLogIndexKeys];
        bool finds_record = false;
        const int count = usable_keys(shape, index, keys, &finds_record);
        const int score = count + (finds_record ? kMaxLogIndexKeys : 0);
        // A leading user_id or record_id alone is of little use, an app_id alone of none.
        if (score > best && (finds_record || count >= 2)) {
            best = score;
            shape.index = RelationGetRelid(index);
            shape.index_keys = count;
            shape.index_finds_record = finds_record;
            std::memcpy(shape.index_key, keys, sizeof keys);
        }
        index_close(index, AccessShareLock);
    }
    list_free(indexes);
}

// Where a trigger is.
struct TriggerPlace {
    Oid relation;
    bool is_clone;  // of the trigger of a partitioned table
};

TriggerPlace place_of_trigger(Oid trigger) {
    Relation catalog = table_open(TriggerRelationId, AccessShareLock);
    ScanKeyData key;
    ScanKeyInit(&key, Anum_pg_trigger_oid, BTEqualStrategyNumber, F_OIDEQ,
                ObjectIdGetDatum(trigger));
    SysScanDesc scan = systable_beginscan(catalog, TriggerOidIndexId, true, nullptr, 1, &key);
    HeapTuple tuple = systable_getnext(scan);
    TriggerPlace place{};
    if (HeapTupleIsValid(tuple)) {
        const auto* form = reinterpret_cast<Form_pg_trigger>(GETSTRUCT(tuple));
        place = {form->tgrelid, OidIsValid(form->tgparentid)};
    }
    systable_endscan(scan);
    table_close(catalog, AccessShareLock);
    return place;
}

bool has_cloned_trigger(Relation relation) {
    const Oid function = trigger_function();
    const TriggerDesc* triggers = relation->trigdesc;
    for (int i = 0; triggers != nullptr && i < triggers->numtriggers; i++)
        if (triggers->triggers[i].tgfoid == function)
            return place_of_trigger(triggers->triggers[i].tgoid).is_clone;
    return false;
}

SyncShape read_shape(Relation relation) {
    SyncShape shape{};
    TupleDesc descriptor = RelationGetDescr(relation);
    require_column(shape, descriptor, "app_id", TEXTOID, &shape.app_id);
    require_column(shape, descriptor, "table_name", TEXTOID, &shape.table_name);
    require_column(shape, descriptor, "record_id", TEXTOID, &shape.record_id);
    require_column(shape, descriptor, "user_id", TEXTOID, &shape.user_id);
    require_column(shape, descriptor, "op", TEXTOID, &shape.op);
    require_column(shape, descriptor, "data", JSONBOID, &shape.data);
    require_column(shape, descriptor, "created_at", TIMESTAMPTZOID, &shape.created_at);
    // field_meta replaces field_timestamps; a table with both is being migrated.
    shape.has_field_meta = optional_column(descriptor, "field_meta", false) != InvalidAttrNumber;
    require_column(shape, descriptor, shape.has_field_meta ? "field_meta" : "field_timestamps",
                   JSONBOID, &shape.stamps);
    shape.space_id = optional_column(descriptor, "space_id", true);
    shape.schema_version = optional_column(descriptor, "schema_version", false);
    shape.actor = optional_column(descriptor, "actor", false);
    shape.origin = optional_column(descriptor, "origin", true);
    shape.tree = RelationGetRelid(relation);
    if (relation->rd_rel->relkind != RELKIND_RELATION)
        return shape;
    if (shape.missing_column == nullptr)
        choose_index(shape, relation);
    if (relation->rd_rel->relispartition) {
        shape.has_cloned_trigger = has_cloned_trigger(relation);
        shape.tree = tree_of_leaf(relation);
    }
    return shape;
}

bool is_ordinary_table(const FormData_pg_class* form) {
    return form->relkind == RELKIND_RELATION && form->relam == HEAP_TABLE_AM_OID &&
           form->relpersistence != RELPERSISTENCE_TEMP;
}

bool is_partitioned_table(const FormData_pg_class* form) {
    return form->relkind == RELKIND_PARTITIONED_TABLE &&
           form->relpersistence != RELPERSISTENCE_TEMP;
}

const Jsonb* jsonb_of(Datum value, bool copy) {
    return reinterpret_cast<const Jsonb*>(copy ? pg::detoast_copy(value) : pg::detoast(value));
}

}  // namespace

Oid trigger_function() {
    const Oid schema = get_namespace_oid("mana_ai", true);
    if (!OidIsValid(schema))
        return InvalidOid;
    oidvector* no_arguments = buildoidvector(nullptr, 0);
    return GetSysCacheOid3(PROCNAMEARGSNSP, Anum_pg_proc_oid, CStringGetDatum("fold_sync_change"),
                           PointerGetDatum(no_arguments), ObjectIdGetDatum(schema));
}

const SyncShape* known_shape(Relation relation) {
    const Oid oid = RelationGetRelid(relation);
    if (last_shape == nullptr || last_shape->relation != oid) {
        if (shapes == nullptr)
            return nullptr;
        const auto* cached =
            static_cast<CachedShape*>(hash_search(shapes, &oid, HASH_FIND, nullptr));
        if (cached == nullptr)
            return nullptr;
        last_shape = cached;
    }
    return last_shape->is_valid ? &last_shape->shape : nullptr;
}

const SyncShape& shape_of(Relation relation) {
    if (const SyncShape* known = known_shape(relation))
        return *known;
    pg::on_relation_change(forget_changed_relation);
    const uint64_t before = pg::relation_changes();
    const SyncShape shape = read_shape(relation);
    CachedShape& cached = cached_shape(RelationGetRelid(relation));
    cached.shape = shape;
    cached.is_valid = before == pg::relation_changes();  // else for this call only
    return cached.shape;
}

Oid attached_relation() {
    if (OidIsValid(attached_cache))
        return attached_cache;
    pg::on_relation_change(forget_changed_relation);
    const Oid function = trigger_function();
    if (!OidIsValid(function))
        return InvalidOid;
    Relation catalog = table_open(DependRelationId, AccessShareLock);
    ScanKeyData keys[2];
    ScanKeyInit(&keys[0], Anum_pg_depend_refclassid, BTEqualStrategyNumber, F_OIDEQ,
                ObjectIdGetDatum(ProcedureRelationId));
    ScanKeyInit(&keys[1], Anum_pg_depend_refobjid, BTEqualStrategyNumber, F_OIDEQ,
                ObjectIdGetDatum(function));
    SysScanDesc scan = systable_beginscan(catalog, DependReferenceIndexId, true, nullptr, 2, keys);
    Oid found = InvalidOid;
    for (HeapTuple tuple = systable_getnext(scan); HeapTupleIsValid(tuple) && !OidIsValid(found);
         tuple = systable_getnext(scan)) {
        const auto* depend = reinterpret_cast<Form_pg_depend>(GETSTRUCT(tuple));
        if (depend->classid != TriggerRelationId)
            continue;
        if (const TriggerPlace place = place_of_trigger(depend->objid); !place.is_clone)
            found = place.relation;
    }
    systable_endscan(scan);
    table_close(catalog, AccessShareLock);
    attached_cache = found;
    return found;
}

SyncTable attached_sync_table() {
    struct Facts {
        const char* schema;
        const char* name;
        Oid oid, owner;
        SyncShape shape;
        bool is_partitioned;
    };
    const Facts facts = pg::guarded([] {
        Facts found{};
        found.oid = attached_relation();
        if (!OidIsValid(found.oid))
            ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
                            errmsg("mana_ai is not attached to a table"),
                            errhint("Call mana_ai.attach() with mana-sync's table.")));
        Relation relation = open_log(found.oid);
        found.schema = quote_identifier(get_namespace_name(RelationGetNamespace(relation)));
        found.name = quote_identifier(pstrdup(RelationGetRelationName(relation)));
        found.owner = relation->rd_rel->relowner;
        found.shape = shape_of(relation);
        found.is_partitioned = is_partitioned_table(relation->rd_rel);
        // Who creates or drops partitions does not wait for the rest of our transaction.
        table_close(relation, found.is_partitioned ? AccessShareLock : NoLock);
        return found;
    });
    return {facts.oid,
            facts.owner,
            std::string(facts.schema) + "." + facts.name,
            facts.shape.has_field_meta ? "field_meta" : "field_timestamps",
            facts.shape.space_id != 0,
            facts.shape.schema_version != 0,
            facts.shape.actor != 0,
            facts.shape.origin != 0,
            facts.is_partitioned};
}

const char* leaf_problem(Relation relation) {
    if (!is_ordinary_table(relation->rd_rel))
        return "the log is not an ordinary table";
    if (shape_of(relation).missing_column != nullptr)
        return "columns of the table are not as expected";
    return nullptr;
}

const char* log_problem(Relation relation) {
    const bool is_partitioned = is_partitioned_table(relation->rd_rel);
    if (!is_partitioned && !is_ordinary_table(relation->rd_rel))
        return "the log is not an ordinary table";
    if (relation->rd_rel->relispartition)
        return "the log is a partition";
    if (shape_of(relation).missing_column != nullptr)
        return "columns of the table are not as expected";
    return is_partitioned ? leaves_problem(RelationGetRelid(relation)) : nullptr;
}

const char* source_problem(Relation relation) {
    const bool is_leaf = relation->rd_rel->relispartition && shape_of(relation).has_cloned_trigger;
    return is_leaf ? leaf_problem(relation) : log_problem(relation);
}

void check_log(Relation relation) {
    const char* hint = "mana_ai.attach() expects the table that mana-sync appends its changes to.";
    const char* name = RelationGetRelationName(relation);
    const bool is_partitioned = is_partitioned_table(relation->rd_rel);
    if (!is_partitioned && !is_ordinary_table(relation->rd_rel))
        ereport(ERROR, (errcode(ERRCODE_WRONG_OBJECT_TYPE),
                        errmsg("\"%s\" is not an ordinary table", name), errhint("%s", hint)));
    if (relation->rd_rel->relispartition)
        ereport(ERROR, (errcode(ERRCODE_WRONG_OBJECT_TYPE), errmsg("\"%s\" is a partition", name),
                        errdetail("The log cannot be read from one partition of it."),
                        errhint("Call mana_ai.attach() with the partitioned table.")));
    if (is_partitioned)
        if (const char* problem = leaves_problem(RelationGetRelid(relation)))
            ereport(ERROR, (errcode(ERRCODE_WRONG_OBJECT_TYPE),
                            errmsg("partitioned table \"%s\" cannot be the log: %s", name, problem),
                            errhint("It must be partitioned by columns, into ordinary tables. "
                                    "Partitions on other servers need mana_ai there.")));
    const SyncShape& shape = shape_of(relation);
    if (shape.missing_column == nullptr)
        return;
    if (shape.wrong_type)
        ereport(ERROR, (errcode(ERRCODE_INVALID_OBJECT_DEFINITION),
                        errmsg("table \"%s\" does not look like mana-sync's sync_changes", name),
                        errdetail("Column \"%s\" is not of type %s.", shape.missing_column,
                                  shape.expected_type),
                        errhint("%s", hint)));
    ereport(ERROR, (errcode(ERRCODE_INVALID_OBJECT_DEFINITION),
                    errmsg("table \"%s\" does not look like mana-sync's sync_changes", name),
                    errdetail("Column \"%s\" of type %s is missing.", shape.missing_column,
                              shape.expected_type),
                    errhint("%s", hint)));
}

Relation open_log(Oid log) {
    Relation relation = table_open(log, AccessShareLock);
    check_log(relation);
    return relation;
}

core::Instant saturating_instant(TimestampTz time) {
    if (time > PG_INT64_MAX - pg::kPostgresEpochOffsetUs)
        return PG_INT64_MAX;  // 'infinity' and the last centuries before it
    return TIMESTAMP_IS_NOBEGIN(time) ? core::kOlderThanEverything
                                      : pg::instant_from_timestamptz(time);
}

uint64_t position_of(const ItemPointerData* tid) {
    return uint64_t{ItemPointerGetBlockNumberNoCheck(tid)} << 16 |
           ItemPointerGetOffsetNumberNoCheck(tid);
}

uint32_t log_generation(Relation relation) {
    return relation->rd_rel->relfilenode;
}

core::Instant created_at_of(const ChangeRowValues& values) {
    return values.created_at_is_null ? core::kOlderThanEverything
                                     : saturating_instant(DatumGetTimestampTz(values.created_at));
}

ChangeRow make_change_row(const ChangeRowValues& values, bool copy) {
    ChangeRow row;
    row.op = core::parse_row_op(pg::text_view(values.op));
    row.created_at = created_at_of(values);
    row.position = values.position;
    if (!values.data_is_null)
        row.data = jsonb_of(values.data, copy);
    if (!values.stamps_is_null)
        row.stamps = jsonb_of(values.stamps, copy);
    if (!values.space_is_null) {
        row.has_space = true;
        row.space =
            pg::text_view(copy ? DatumGetTextPCopy(values.space) : DatumGetTextPP(values.space));
    }
    return row;
}

std::string change_row_columns(bool has_field_meta, bool has_space_id) {
    return std::string("op, data, ") + (has_field_meta ? "field_meta" : "field_timestamps") +
           ", created_at, " + (has_space_id ? "space_id" : "NULL::pg_catalog.text") + ", ctid";
}

ChangeRowValues change_row_values(TupleTableSlot* slot, const SyncShape& shape, uint64_t place) {
    ChangeRowValues values{};
    bool op_is_null = false;
    values.op = slot_getattr(slot, shape.op, &op_is_null);
    if (op_is_null)
        values.op = PointerGetDatum(cstring_to_text(""));
    values.data = slot_getattr(slot, shape.data, &values.data_is_null);
    values.stamps = slot_getattr(slot, shape.stamps, &values.stamps_is_null);
    values.created_at = slot_getattr(slot, shape.created_at, &values.created_at_is_null);
    values.space_is_null = true;
    if (shape.space_id != 0)
        values.space = slot_getattr(slot, shape.space_id, &values.space_is_null);
    values.position = place | position_of(&slot->tts_tid);
    return values;
}

ChangeRow read_change_row(TupleTableSlot* slot, const SyncShape& shape, uint64_t place, bool copy) {
    return make_change_row(change_row_values(slot, shape, place), copy);
}

}  // namespace mana_ai
