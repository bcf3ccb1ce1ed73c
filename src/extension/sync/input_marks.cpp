#include "mana_ai/extension/sync/input_marks.hpp"

#include <optional>
#include <string_view>

#include "mana_ai/core/time/wake.hpp"
#include "mana_ai/extension/sync/erased_users.hpp"
#include "mana_ai/extension/sync/snapshots.hpp"
#include "mana_ai/pg/jsonb_object.hpp"
#include "mana_ai/pg/keyed_table.hpp"
#include "mana_ai/pg/shared_state.hpp"
#include "mana_ai/pg/text.hpp"
#include "mana_ai/pg/wake.hpp"
#include "mana_ai/pg/watch_filter.hpp"

extern "C" {
#include "access/table.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "common/hashfn.h"
#include "storage/bufmgr.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
}

namespace mana_ai {

namespace {

struct Ids {
    std::string_view user, table, record;
};

// Values that are compressed or stored out of line are longer than ids may be.
std::optional<std::string_view> short_text(TupleTableSlot* slot, AttrNumber column) {
    bool is_null = false;
    if (column == 0)
        return std::nullopt;
    const Datum value = slot_getattr(slot, column, &is_null);
    if (is_null)
        return std::nullopt;
    const auto* stored = reinterpret_cast<const varlena*>(DatumGetPointer(value));
    if (VARATT_IS_EXTENDED(stored) && !VARATT_IS_SHORT(stored))
        return std::nullopt;
    return pg::text_view(stored);
}

std::optional<Ids> ids_of(TupleTableSlot* slot, const SyncShape& shape) {
    const auto user = short_text(slot, shape.user_id);
    const auto table = short_text(slot, shape.table_name);
    const auto record = short_text(slot, shape.record_id);
    if (!user || !table || !record)
        return std::nullopt;
    return Ids{*user, *table, *record};
}

// {kind: 'user' | 'ai' | 'system'}; and in newer tables the origin: user, agent, system, migration.
bool is_written_by_user(TupleTableSlot* slot, const SyncShape& shape) {
    if (const auto origin = short_text(slot, shape.origin);
        origin && (*origin == "agent" || *origin == "system" || *origin == "migration"))
        return false;
    if (shape.actor == 0)
        return true;
    bool is_null = false;
    const Datum value = slot_getattr(slot, shape.actor, &is_null);
    if (is_null)
        return true;
    const Jsonb* actor = DatumGetJsonbP(value);
    if (!JB_ROOT_IS_OBJECT(actor))
        return true;
    const pg::JsonbFields fields = pg::read_object(actor);
    const pg::JsonbValueRef* kind = pg::find_field(fields, "kind");
    const auto name = kind == nullptr ? std::nullopt : pg::string_of(*kind);
    return !name || (*name != "ai" && *name != "system");
}

Oid table_oid(const char* name) {
    const Oid schema = get_namespace_oid("mana_ai", true);
    return OidIsValid(schema) ? get_relname_relid(name, schema) : InvalidOid;
}

// A table with these key columns; false: it is locked, or gone.
bool open_table(pg::KeyedTable& table, const char* name) {
    const Oid oid = table_oid(name);
    if (!OidIsValid(oid) || !pg::try_lock_table(oid))
        return false;
    pg::TableKey key;
    key.table = oid;
    key.count = 0;
    for (const char* column : {"user_id", "table_name", "record_id"}) {
        const AttrNumber number = get_attnum(oid, column);
        if (number == InvalidAttrNumber)
            return false;
        key.columns[key.count++] = number;
        key.never_null |= uint64_t{1} << (number - 1);
    }
    return pg::open_keyed_table(table, key);
}

// A table that has never had a row. One of an open transaction counts.
bool is_empty(const char* name) {
    const Oid oid = table_oid(name);
    if (!OidIsValid(oid) || !pg::try_lock_table(oid))
        return false;
    Relation table = table_open(oid, NoLock);
    const bool has_none = RelationGetNumberOfBlocks(table) == 0;
    table_close(table, NoLock);
    return has_none;
}

// If the filter is not known, but nothing has ever been watched, it is known from now on: whoever
// adds a record later puts it into the filter, too.
bool nothing_is_watched() {
    if (!is_empty("watched_records") || !is_empty("input_watches"))
        return false;
    pg::watch_filter::complete();
    return true;
}

// While the filter is not known.
bool is_watched(const Datum* key) {
    pg::KeyedTable table;
    if (nothing_is_watched())
        return false;
    if (!open_table(table, "watched_records"))
        return false;
    const bool found = pg::count_rows(table, key, 3, 1) > 0;
    pg::close_keyed_table(table);
    return found;
}

bool insert_mark(const Datum* ids) {
    pg::KeyedTable table;
    if (!open_table(table, "input_changes"))
        return false;
    CommandCounterIncrement();
    pg::RowValues row = pg::row_values(table.table);
    const Oid oid = RelationGetRelid(table.table);
    give(row, get_attnum(oid, "user_id"), ids[0]);
    give(row, get_attnum(oid, "table_name"), ids[1]);
    give(row, get_attnum(oid, "record_id"), ids[2]);
    pg::insert_row(table, row);
    pg::close_keyed_table(table);
    pg::wake_worker_at_commit();
    return true;
}

bool wakes_on_change(const RecordState& state) {
    const pg::JsonbValueRef* cadence = find_value(state, "cadence");
    if (cadence == nullptr || !pg::is_object(*cadence))
        return false;
    const pg::JsonbFields members = pg::read_object(*cadence);
    const pg::JsonbValueRef* kind = pg::find_field(members, "kind");
    return kind != nullptr && pg::string_of(*kind) == core::kOnChange;
}

}  // namespace

uint64_t watch_hash(std::string_view user_id, std::string_view table_name,
                    std::string_view record_id) {
    uint64_t hash = 0;
    for (const std::string_view part : {user_id, table_name, record_id})
        hash = hash_bytes_extended(reinterpret_cast<const unsigned char*>(part.data()),
                                   static_cast<int>(part.size()), hash);
    return hash;
}

bool may_wake(TupleTableSlot* slot, const SyncShape& shape) {
    if (pg::watch_filter::is_quiet())
        return false;
    const auto ids = ids_of(slot, shape);
    return ids && pg::watch_filter::look_up(watch_hash(ids->user, ids->table, ids->record)) !=
                      pg::watch_filter::Answer::No;
}

uint64_t user_hash(TupleTableSlot* slot, const SyncShape& shape) {
    const auto ids = ids_of(slot, shape);
    return ids ? watch_hash(ids->user, {}, {}) : 0;
}

InputMarked try_mark_input(TupleTableSlot* slot, const SyncShape& shape, bool all_of_user) {
    const auto ids = ids_of(slot, shape);
    if (!ids || !is_written_by_user(slot, shape))
        return InputMarked::NoNeed;
    const Datum key[] = {pg::text_datum(ids->user), pg::text_datum(ids->table),
                         pg::text_datum(ids->record)};
    if (!ids_fit({key[0], key[1], key[2]}))
        return InputMarked::NoNeed;
    // The filter can be wrong, and anybody can fill it.
    if (!is_watched(key) || erasure_of(key[0]) != Erasure::None)
        return InputMarked::NoNeed;
    const Datum nothing = pg::text_datum("");
    const Datum all[] = {key[0], nothing, nothing};
    return insert_mark(all_of_user ? all : key) ? InputMarked::Done : InputMarked::Locked;
}

void mark_watching_mission(const RecordKey& key, const RecordState* state) {
    if (!pg::shared_state::available())
        return;
    const auto is_watching = [&key] {
        if (pg::watch_filter::is_quiet())
            return false;
        const uint64_t hash = watch_hash(pg::text_view(key.user_id), pg::text_view(key.table_name),
                                         pg::text_view(key.record_id));
        const auto answer = pg::watch_filter::look_up(hash);
        return answer == pg::watch_filter::Answer::Maybe ||
               (answer == pg::watch_filter::Answer::Unknown && !nothing_is_watched());
    };
    if ((state == nullptr || !wakes_on_change(*state)) && !is_watching())
        return;
    const Datum ids[] = {key.user_id, key.table_name, key.record_id};
    insert_mark(ids);
}

}  // namespace mana_ai
