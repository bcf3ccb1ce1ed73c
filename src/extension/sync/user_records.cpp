#include "mana_ai/extension/sync/user_records.hpp"

#include <string_view>

#include "mana_ai/extension/sync/log_leaves.hpp"
#include "mana_ai/extension/sync/snapshots.hpp"
#include "mana_ai/extension/sync/sync_table.hpp"
#include "mana_ai/pg/compat.hpp"
#include "mana_ai/pg/guard.hpp"
#include "mana_ai/pg/text.hpp"

extern "C" {
#include "access/detoast.h"
#include "access/genam.h"
#include "access/htup_details.h"
#include "access/relation.h"
#include "access/relscan.h"
#include "access/table.h"
#include "access/tableam.h"
#include "catalog/pg_am_d.h"
#include "catalog/pg_index.h"
#include "catalog/pg_type_d.h"
#include "utils/fmgroids.h"
#include "utils/snapmgr.h"
}

namespace mana_ai {

namespace {

struct Scan {
    Relation log;
    Relation index;  // or nullptr
    IndexScanDesc by_index;
    TableScanDesc by_table;
    TupleTableSlot* slot;
    SyncShape shape;
    Datum user_id;
    MemoryContext row_memory;
};

Relation index_on_user(Relation log, const SyncShape& shape) {
    List* indexes = RelationGetIndexList(log);
    ListCell* cell;
    foreach (cell, indexes) {
        Relation index = index_open(lfirst_oid(cell), AccessShareLock);
        const Form_pg_index form = index->rd_index;
        if (index->rd_rel->relam == BTREE_AM_OID && form->indisvalid && form->indislive &&
            form->indkey.values[0] == shape.user_id && index->rd_opcintype[0] == TEXTOID &&
            heap_attisnull(index->rd_indextuple, Anum_pg_index_indpred, nullptr))
            return index;
        index_close(index, AccessShareLock);
    }
    return nullptr;
}

// Of one leaf.
Scan begin_scan(Relation leaf, const std::string& user_id) {
    Scan scan{};
    scan.log = leaf;
    scan.shape = shape_of(scan.log);
    scan.user_id = pg::text_datum(user_id);
    scan.slot = table_slot_create(scan.log, nullptr);
    scan.row_memory =
        AllocSetContextCreate(CurrentMemoryContext, "mana_ai names", ALLOCSET_SMALL_SIZES);
    scan.index = index_on_user(scan.log, scan.shape);
    if (scan.index == nullptr) {
        scan.by_table = table_beginscan(scan.log, SnapshotSelf, 0, nullptr);
        return scan;
    }
    ScanKeyData key;
    ScanKeyEntryInitialize(&key, 0, 1, BTEqualStrategyNumber, InvalidOid,
                           scan.index->rd_indcollation[0], F_TEXTEQ, scan.user_id);
    scan.by_index = pg::compat::begin_index_scan(scan.log, scan.index, SnapshotSelf, 1);
    index_rescan(scan.by_index, &key, 1, nullptr, 0);
    return scan;
}

bool next_row(Scan& scan) {
    CHECK_FOR_INTERRUPTS();
    return scan.index != nullptr
               ? index_getnext_slot(scan.by_index, ForwardScanDirection, scan.slot)
               : table_scan_getnextslot(scan.by_table, ForwardScanDirection, scan.slot);
}

void end_scan(Scan& scan) {
    if (scan.index != nullptr) {
        index_endscan(scan.by_index);
        index_close(scan.index, AccessShareLock);
    } else {
        table_endscan(scan.by_table);
    }
    MemoryContextDelete(scan.row_memory);
    ExecDropSingleTupleTableSlot(scan.slot);
    close_leaf(scan.log);
}

// The leaves that can have rows of the user. May ereport(ERROR).
List* leaves_of_user(const std::string& user_id) {
    const Oid log = attached_relation();
    if (!OidIsValid(log))
        return NIL;
    table_close(open_log(log), AccessShareLock);  // checks it
    const Oid tree = tree_of_user(log, pg::text_datum(user_id));
    return OidIsValid(tree) ? leaves_of(tree) : NIL;
}

// False: it is gone. May ereport(ERROR).
bool try_begin_scan(Oid leaf_oid, const std::string& user_id, Scan& scan) {
    Relation leaf = nullptr;
    if (open_leaf(leaf_oid, true, &leaf) != LeafOpened::Opened)
        return false;
    scan = begin_scan(leaf, user_id);
    return true;
}

// False: there is none, or it is too long for any name, and is not read.
bool text_of(Scan& scan, AttrNumber column, std::string_view& value) {
    bool is_null = false;
    const Datum datum = slot_getattr(scan.slot, column, &is_null);
    if (is_null || toast_raw_datum_size(datum) > kMaxIdBytes + VARHDRSZ)
        return false;
    value = pg::text_view(datum);
    return true;
}

bool is_same_text(Datum value, Datum wanted) {
    return toast_raw_datum_size(value) == toast_raw_datum_size(wanted) &&
           pg::same_text(value, wanted);
}

struct Name {
    std::string_view table;
    std::string_view record;
};

bool read_name(Scan& scan, std::string_view user_id, Name& name) {
    RecordKind kind;
    std::string_view app;
    std::string_view user;
    return text_of(scan, scan.shape.table_name, name.table) && kind_of_table(name.table, &kind) &&
           text_of(scan, scan.shape.app_id, app) && app == "ai" &&
           text_of(scan, scan.shape.user_id, user) && user == user_id &&
           text_of(scan, scan.shape.record_id, name.record) &&
           user.size() + name.record.size() <= kMaxIdBytes;
}

// False: there are no more. An empty name is a row that does not count. Valid until the next call.
bool next_name(Scan& scan, std::string_view user_id, Name& name) {
    if (!next_row(scan))
        return false;
    MemoryContextReset(scan.row_memory);
    MemoryContext outer = MemoryContextSwitchTo(scan.row_memory);
    if (!read_name(scan, user_id, name))
        name = {};
    MemoryContextSwitchTo(outer);
    return true;
}

int64_t count_rows_in(Scan& scan) {
    int64_t count = 0;
    while (next_row(scan)) {
        bool is_null = false;
        const Datum user = slot_getattr(scan.slot, scan.shape.user_id, &is_null);
        MemoryContextReset(scan.row_memory);
        MemoryContext outer = MemoryContextSwitchTo(scan.row_memory);
        count += !is_null && is_same_text(user, scan.user_id) ? 1 : 0;
        MemoryContextSwitchTo(outer);
    }
    return count;
}

// -1: there is no readable log. May ereport(ERROR).
int64_t count_rows(const std::string& user_id) {
    const Oid log = attached_relation();
    Relation relation = OidIsValid(log) ? try_relation_open(log, AccessShareLock) : nullptr;
    if (relation == nullptr)
        return -1;
    const bool can_be_read = log_problem(relation) == nullptr;
    relation_close(relation, AccessShareLock);
    if (!can_be_read)
        return -1;
    int64_t count = 0;
    ListCell* cell;
    foreach (cell, leaves_of_user(user_id)) {
        Scan scan{};
        if (!try_begin_scan(lfirst_oid(cell), user_id, scan))
            continue;
        count += count_rows_in(scan);
        end_scan(scan);
    }
    return count;
}

}  // namespace

std::set<std::string> next_records_of_user(const std::string& user_id, const std::string& after,
                                           int limit) {
    std::set<std::string> names;
    List* leaves = pg::guarded([&] { return leaves_of_user(user_id); });
    for (int i = 0; i < list_length(leaves); i++) {
        Scan scan{};
        if (!pg::guarded([&] { return try_begin_scan(list_nth_oid(leaves, i), user_id, scan); }))
            continue;
        Name name;
        while (pg::guarded([&] { return next_name(scan, user_id, name); })) {
            if (name.table.empty())
                continue;
            std::string full = std::string(name.table) + "/" + std::string(name.record);
            if (full <= after)
                continue;
            names.insert(std::move(full));
            if (names.size() > static_cast<size_t>(limit))
                names.erase(std::prev(names.end()));
        }
        pg::guarded([&] { end_scan(scan); });
    }
    return names;
}

std::optional<int64_t> count_log_rows(const std::string& user_id) {
    const int64_t count = pg::guarded([&user_id] { return count_rows(user_id); });
    return count < 0 ? std::nullopt : std::optional(count);
}

void split_record_name(const std::string& name, std::string& table_name, std::string& record_id) {
    const size_t slash = name.find('/');
    table_name = name.substr(0, slash);
    record_id = name.substr(slash + 1);
}

}  // namespace mana_ai
