#include "mana_ai/extension/sync/dirty_records.hpp"

#include "mana_ai/extension/sync/own_tables.hpp"
#include "mana_ai/extension/sync/snapshots.hpp"
#include "mana_ai/pg/failpoint.hpp"
#include "mana_ai/pg/record_lock.hpp"
#include "mana_ai/pg/spi.hpp"
#include "mana_ai/pg/subtransaction.hpp"

extern "C" {
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/indexing.h"
#include "commands/sequence.h"
#include "storage/lmgr.h"
}

namespace mana_ai {

namespace {

const char* reason_of(Kept kept) {
    switch (kept) {
        case Kept::Busy:
            return "busy";
        case Kept::NoIndex:
            return "the log has no index that finds a record";
        case Kept::TooLarge:
            return "record too large";
        default:
            return nullptr;
    }
}

Datum text_datum(const std::string& value) {
    return PointerGetDatum(cstring_to_text_with_len(value.data(), static_cast<int>(value.size())));
}

// Null when the record is right now; else why it is not.
const char* repair(const std::string& user_id, const std::string& table_name,
                   const std::string& record_id) {
    const char* problem = nullptr;
    const auto error = pg::in_subtransaction([&] {
        RecordName name{};
        name.key = {text_datum(user_id), text_datum(table_name), text_datum(record_id)};
        const Oid log_oid = attached_relation();
        if (!kind_of_table(table_name, &name.kind) || !OidIsValid(log_oid))
            return true;
        if (!ids_fit(name.key)) {
            problem = "ids too long";
            return true;
        }
        Relation log = open_log(log_oid);
        SnapshotStore store;
        open_store(store, log);
        const Kept kept = keep_record(store, name, nullptr, ScanLimit::None);
        MANA_AI_FAILPOINT("repair.record");
        count_kept(kept);
        problem = reason_of(kept);
        close_store(store);
        table_close(log, NoLock);
        return problem == nullptr;
    });
    return error ? "error during repair" : problem;
}

// DROP EXTENSION holds this table while it waits for writers of the log to end: who of them waited
// for the table would be a deadlock's victim.
void lock_for_mark(Oid table) {
    constexpr int kMaxWaitMs = 1000;
    constexpr int kPauseMs = 8;
    for (int waited = 0; !ConditionalLockRelationOid(table, RowExclusiveLock); waited += kPauseMs) {
        if (waited >= kMaxWaitMs)
            ereport(ERROR, (errcode(ERRCODE_LOCK_NOT_AVAILABLE),
                            errmsg("table \"mana_ai.dirty_records\" is locked")));
        pg::sleep_and_check_interrupts(kPauseMs);
    }
}

}  // namespace

void mark_dirty(const RecordKey& key, const char* reason) {
    const DirtyTable& columns = dirty_table();
    lock_for_mark(columns.oid);
    Relation table = table_open(columns.oid, NoLock);
    const int count = RelationGetDescr(table)->natts;
    auto* values = static_cast<Datum*>(palloc0(sizeof(Datum) * count));
    auto* nulls = static_cast<bool*>(palloc(count));
    for (int i = 0; i < count; i++)
        nulls[i] = true;
    auto set = [&](AttrNumber column, Datum value) {
        values[column - 1] = value;
        nulls[column - 1] = false;
    };
    set(columns.id, Int64GetDatum(nextval_internal(columns.id_sequence, false)));
    set(columns.user_id, key.user_id);
    set(columns.table_name, key.table_name);
    set(columns.record_id, key.record_id);
    set(columns.reason, CStringGetTextDatum(reason));
    set(columns.ts, TimestampTzGetDatum(GetCurrentTimestamp()));
    CatalogTupleInsert(table, heap_form_tuple(RelationGetDescr(table), values, nulls));
    table_close(table, NoLock);
}

RepairCounts repair_dirty_records(int limit) {
    // Only marks that were seen are removed: a younger one may stand for a row that the replay has
    // not seen.
    static pg::Statement select_marks(R"sql(
SELECT user_id, table_name, record_id, array_agg(id)::text
  FROM (SELECT * FROM mana_ai.dirty_records ORDER BY id LIMIT $1 FOR UPDATE SKIP LOCKED) d
 GROUP BY user_id, table_name, record_id)sql");
    static pg::Statement remove_marks(
        "DELETE FROM mana_ai.dirty_records WHERE id = ANY ($1::bigint[])");
    static pg::Statement queue_again(R"sql(
INSERT INTO mana_ai.dirty_records (user_id, table_name, record_id, reason)
VALUES ($1, $2, $3, $4))sql");
    RepairCounts counts;
    for (const pg::Row& row : select_marks.execute({int64_t{limit}}).rows) {
        const char* problem = repair(row.text(0), row.text(1), row.text(2));
        if (problem != nullptr) {
            queue_again.execute({std::string_view(row.text(0)), std::string_view(row.text(1)),
                                 std::string_view(row.text(2)), std::string_view(problem)});
            counts.left++;
        } else {
            counts.repaired++;
        }
        remove_marks.execute({std::string_view(row.text(3))});
    }
    return counts;
}

int64_t count_dirty_records() {
    static pg::Statement count_records(R"sql(
SELECT count(*) FROM (SELECT DISTINCT user_id, table_name, record_id
                        FROM mana_ai.dirty_records) d)sql");
    return count_records.execute({}, true).rows.front().number(0);
}

}  // namespace mana_ai
