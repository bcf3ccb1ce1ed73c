#include "mana_ai/extension/sync/erased_users.hpp"

#include <cstring>
#include <exception>
#include <string>
#include <string_view>
#include <vector>

#include "mana_ai/extension/sync/snapshots.hpp"
#include "mana_ai/extension/sync/user_records.hpp"
#include "mana_ai/pg/crash_watch.hpp"
#include "mana_ai/pg/function_call.hpp"
#include "mana_ai/pg/guard.hpp"
#include "mana_ai/pg/keyed_table.hpp"
#include "mana_ai/pg/log.hpp"
#include "mana_ai/pg/metrics.hpp"
#include "mana_ai/pg/relation_changes.hpp"
#include "mana_ai/pg/text.hpp"

extern "C" {
#include "access/heapam.h"
#include "access/relation.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_type_d.h"
#include "commands/trigger.h"
#include "common/sha2.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"
}

namespace mana_ai {

namespace {

constexpr size_t kDigestLength = 2 * PG_SHA256_DIGEST_LENGTH;

// Facts that are cached until the table changes. A process learns of a change when it next begins a
// statement, at the latest here; the erasure waits for transactions that had begun to write before
// that (mana_ai.settle_erasures()).
struct Known {
    bool is_valid = false;
    Oid table = InvalidOid;
    AttrNumber user_digest = InvalidAttrNumber;
    bool is_empty = false;
    // The last user who was looked up and had not been erased.
    size_t user_length = 0;
    char user[kMaxIdBytes];
} known;

void forget_changed_relation(Oid relation) {
    if (!OidIsValid(relation) || relation == known.table)
        known.is_valid = false;
}

// False also for a row that an open transaction has inserted, or a dead one.
bool has_no_rows(Relation table) {
    TupleTableSlot* slot = table_slot_create(table, nullptr);
    TableScanDesc scan = table_beginscan(table, SnapshotAny, 0, nullptr);
    const bool found = table_scan_getnextslot(scan, ForwardScanDirection, slot);
    table_endscan(scan);
    ExecDropSingleTupleTableSlot(slot);
    return !found;
}

// Strong enough to lock a row, and to exclude REINDEX, which locks the index exclusively.
bool try_lock(Oid table) {
    return ConditionalLockRelationOid(table, RowExclusiveLock);
}

// False: somebody has locked the table. A missing table (installed as version 0.1.0) counts as
// empty.
bool find_out() {
    pg::on_relation_change(forget_changed_relation);
    const Oid oid = get_relname_relid("erased_users", get_namespace_oid("mana_ai", false));
    known = Known{};
    known.table = oid;
    known.is_empty = true;
    if (!OidIsValid(oid))
        return true;
    const uint64_t before = pg::relation_changes();
    if (!try_lock(oid))
        return false;
    Relation table = try_relation_open(oid, NoLock);
    if (table == nullptr)
        return false;
    known.user_digest = get_attnum(oid, "user_digest");
    known.is_empty = has_no_rows(table);
    relation_close(table, NoLock);
    known.is_valid = before == pg::relation_changes();
    return true;
}

text* digest_of(std::string_view user) {
    const text* id = cstring_to_text_with_len(user.data(), static_cast<int>(user.size()));
    const bytea* digest = DatumGetByteaPP(DirectFunctionCall1(sha256_bytea, PointerGetDatum(id)));
    text* hex = static_cast<text*>(palloc(VARHDRSZ + kDigestLength));
    SET_VARSIZE(hex, VARHDRSZ + kDigestLength);
    hex_encode(VARDATA_ANY(digest), PG_SHA256_DIGEST_LENGTH, VARDATA(hex));
    return hex;
}

// A row never changes between its insert and its deletion, so no lookup misses one that is being
// moved.
Erasure look_up(std::string_view user) {
    const Oid oid = known.table;
    const AttrNumber column = known.user_digest;
    if (!try_lock(oid))
        return Erasure::Busy;
    const pg::TableKey key{oid, {column}, 1, 0, InvalidAttrNumber};
    pg::KeyedTable table;
    if (!pg::open_keyed_table(table, key))
        return Erasure::Busy;
    const Datum digest[] = {PointerGetDatum(digest_of(user))};
    Erasure erasure = Erasure::Busy;
    switch (pg::peek_row(table, digest)) {
        case pg::Lookup::Missing:
            erasure = Erasure::None;
            break;
        case pg::Lookup::Found:
            // Readmitting the user then rebuilds their records from a log that includes our row.
            erasure = pg::hold_any_row(table, digest) ? Erasure::Erased : Erasure::Busy;
            break;
        case pg::Lookup::Busy:
            break;
    }
    pg::close_keyed_table(table);
    return erasure;
}

}  // namespace

Erasure erasure_of(Datum user_id) {
    AcceptInvalidationMessages();
    if (known.is_valid && known.is_empty)
        return Erasure::None;
    if (!known.is_valid && !find_out())
        return Erasure::Busy;
    if (known.is_empty)
        return Erasure::None;
    const std::string_view user = pg::text_view(user_id);
    if (known.is_valid && known.user_length > 0 &&
        user == std::string_view(known.user, known.user_length))
        return Erasure::None;
    const uint64_t before = pg::relation_changes();
    const Erasure erasure = look_up(user);
    if (erasure == Erasure::None && known.is_valid && before == pg::relation_changes() &&
        user.size() <= sizeof(known.user)) {
        known.user_length = user.size();
        memcpy(known.user, user.data(), user.size());
    }
    return erasure;
}

namespace {

// Changes of the file and the server's log that are made when the transaction has committed. Those
// of a subtransaction are dropped with it.
struct AtCommit {
    SubTransactionId subtransaction;
    bool is_log_line;  // else the id of a user to remove from the file of crashes
    std::string text;
};
std::vector<AtCommit> at_commit;
bool end_callbacks_registered = false;

// The transaction has committed: this must not fail.
void do_at_commit() noexcept {
    for (const AtCommit& task : at_commit) {
        try {
            if (task.is_log_line)
                pg::log_info(task.text);
            else
                pg::crash_watch::erase_user(task.text);
        } catch (const std::exception&) {
            pg::log_warning("an erased user could not be taken out of the file of crashes");
        }
    }
}

extern "C" {
static void on_erasure_end(XactEvent event, void*) {
    if (event == XACT_EVENT_COMMIT)
        do_at_commit();
    if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT || event == XACT_EVENT_PREPARE)
        at_commit.clear();
}

static void on_erasure_subtransaction_end(SubXactEvent event, SubTransactionId subtransaction,
                                          SubTransactionId, void*) {
    if (event != SUBXACT_EVENT_ABORT_SUB)
        return;
    // Its nested subtransactions have higher numbers.
    while (!at_commit.empty() && at_commit.back().subtransaction >= subtransaction)
        at_commit.pop_back();
}
}

void do_after_commit(bool is_log_line, std::string text) {
    const SubTransactionId now = pg::guarded([] {
        if (!end_callbacks_registered) {
            RegisterXactCallback(on_erasure_end, nullptr);
            RegisterSubXactCallback(on_erasure_subtransaction_end, nullptr);
            end_callbacks_registered = true;
        }
        return GetCurrentSubTransactionId();
    });
    at_commit.push_back({now, is_log_line, std::move(text)});
}

}  // namespace

}  // namespace mana_ai

extern "C" {

PG_FUNCTION_INFO_V1(mana_ai_forget_known_erasures);
PGDLLEXPORT Datum mana_ai_forget_known_erasures(PG_FUNCTION_ARGS) {
    using namespace mana_ai;
    return pg::entry_point([fcinfo] {
        if (!CALLED_AS_TRIGGER(fcinfo))
            throw pg::make_error(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED,
                                 "mana_ai.forget_known_erasures() is not called as a trigger");
        const auto* trigger = reinterpret_cast<const TriggerData*>(fcinfo->context);
        pg::guarded([trigger] { CacheInvalidateRelcache(trigger->tg_relation); });
        return PointerGetDatum(nullptr);
    });
}

PG_FUNCTION_INFO_V1(mana_ai_erase_user_from_crashes);
PGDLLEXPORT Datum mana_ai_erase_user_from_crashes(PG_FUNCTION_ARGS) {
    using namespace mana_ai;
    return pg::entry_point([fcinfo] {
        std::string user = pg::text_argument(fcinfo, 0);
        const int count = pg::crash_watch::count_of_user(user);
        if (count > 0)
            do_after_commit(false, std::move(user));
        return Int64GetDatum(count);
    });
}

PG_FUNCTION_INFO_V1(mana_ai_erase_agent_from_metrics);
PGDLLEXPORT Datum mana_ai_erase_agent_from_metrics(PG_FUNCTION_ARGS) {
    using namespace mana_ai;
    return pg::entry_point([fcinfo] {
        pg::metrics::erase_label_value("agent_id", pg::text_argument(fcinfo, 0));
        return Datum{0};
    });
}

PG_FUNCTION_INFO_V1(mana_ai_log_rows_of_user);
PGDLLEXPORT Datum mana_ai_log_rows_of_user(PG_FUNCTION_ARGS) {
    using namespace mana_ai;
    const auto count =
        pg::entry_point([fcinfo] { return count_log_rows(pg::text_argument(fcinfo, 0)); });
    if (!count)
        PG_RETURN_NULL();
    PG_RETURN_INT64(*count);
}

PG_FUNCTION_INFO_V1(mana_ai_write_to_log);
PGDLLEXPORT Datum mana_ai_write_to_log(PG_FUNCTION_ARGS) {
    using namespace mana_ai;
    return pg::entry_point([fcinfo] {
        do_after_commit(true, pg::text_argument(fcinfo, 0));
        return Datum{0};
    });
}

}  // extern "C"
