// The trigger on mana-sync's table: every new row of a mission or an agent goes into its snapshot
// in the inserting transaction (docs/contract/data.md, Snapshots).
//
// Whatever happens in here, the insert goes on: what cannot be kept now is marked and repaired
// later. Only a cancel or a termination of the session passes through.

#include <algorithm>

#include "mana_ai/extension/sync/dirty_records.hpp"
#include "mana_ai/extension/sync/snapshots.hpp"
#include "mana_ai/pg/failpoint.hpp"
#include "mana_ai/pg/guard.hpp"
#include "mana_ai/pg/log.hpp"
#include "mana_ai/pg/metrics.hpp"
#include "mana_ai/pg/record_lock.hpp"
#include "mana_ai/pg/shared_state.hpp"
#include "mana_ai/pg/subtransaction.hpp"
#include "mana_ai/pg/wake.hpp"

extern "C" {
#include "access/xact.h"
#include "commands/trigger.h"
}

namespace mana_ai {

namespace {

// The first rows of a transaction run in subtransactions, so that any error can be undone. A bulk
// load goes on without: more than 64 of them in one transaction slow down every snapshot in the
// server, and what fails first after so many rows (a full disk) makes the load itself fail as well.
// Once a row has failed, all that follow are protected, however many.
constexpr int kProtectedRows = 32;

// How long one transaction waits in all for others that work on the same records; and at a time, so
// that a short transaction of somebody else costs little more than it takes.
constexpr int kMaxWaitMs = 200;
constexpr int kMaxPauseMs = 8;

struct TransactionBudget {
    int rows = 0;
    bool has_failed = false;
    int waited_ms = 0;
    // The last mark, good as long as the subtransaction that made it is the current one: a thousand
    // rows of a record that somebody else holds need one mark.
    SubTransactionId marked_in = InvalidSubTransactionId;
    uint64_t marked_name = 0;
} budget;

bool callback_registered = false;
bool error_logged = false;

extern "C" {
static void reset_budget(XactEvent event, void*) {
    if (event != XACT_EVENT_PRE_COMMIT && event != XACT_EVENT_PRE_PREPARE)
        budget = TransactionBudget{};
}
}

// What ereport says of an error must not quote the row; its SQLSTATE is enough to look for.
void log_once(const char* what, const pg::PgError& error) {
    pg::shared_state::count_trigger_error();
    budget.has_failed = true;
    if (error_logged)
        return;
    error_logged = true;
    pg::log_info(std::string(what) + " (SQLSTATE " + unpack_sql_state(error.sqlstate) +
                 "); further errors of this session are only counted");
}

void begin_row() {
    if (!callback_registered) {
        RegisterXactCallback(reset_budget, nullptr);
        callback_registered = true;
    }
    budget.rows++;
}

bool is_protected() {
    return budget.rows <= kProtectedRows || budget.has_failed;
}

struct Change {
    TriggerData* trigger;
    RecordName name;
};

void mark(const Change& change, const char* reason) {
    const uint64_t name = pg::guarded([&] { return name_hash(change.name.key); });
    if (budget.marked_in == GetCurrentSubTransactionId() && budget.marked_name == name)
        return;
    auto body = [&] {
        MANA_AI_FAILPOINT("trigger.mark");
        mark_dirty(change.name.key, reason);
        MANA_AI_FAILPOINT("trigger.marked");
        return true;
    };
    std::optional<pg::PgError> error;
    if (is_protected()) {
        error = pg::in_subtransaction(body);
    } else {
        try {
            pg::guarded(body);
        } catch (const pg::PgError& failure) {
            // Nothing was done yet that would have to be undone.
            if (failure.sqlstate != ERRCODE_LOCK_NOT_AVAILABLE)
                throw;
            error = failure;
        }
    }
    budget.marked_in = error ? InvalidSubTransactionId : GetCurrentSubTransactionId();
    budget.marked_name = name;
    if (error)
        log_once(
            "a changed record could not even be marked as dirty; call "
            "mana_ai.refresh_snapshots() when the cause is gone",
            *error);
    pg::wake_worker_at_commit();
}

Kept keep(const Change& change) {
    SnapshotStore store;
    open_store(store, change.trigger->tg_relation);
    const ChangeRow row = read_change_row(change.trigger->tg_trigslot, *store.shape, false);
    MANA_AI_FAILPOINT("trigger.row");
    const Kept kept = keep_record(store, change.name, &row, ScanLimit::IndexOrSmallTable);
    MANA_AI_FAILPOINT("trigger.folded");
    close_store(store);
    return kept;
}

struct Attempt {
    Kept kept = Kept::Unchanged;
    std::optional<pg::PgError> error;
};

Attempt attempt(const Change& change) {
    Attempt result;
    auto body = [&] {
        result.kept = keep(change);
        return result.kept != Kept::Busy;
    };
    if (is_protected())
        result.error = pg::in_subtransaction(body);
    else
        pg::guarded(body);
    return result;
}

void fold(const Change& change) {
    for (int pause_ms = 1;; pause_ms = std::min(pause_ms * 2, kMaxPauseMs)) {
        const Attempt result = attempt(change);
        if (result.error) {
            log_once("a change of a mission or agent could not be folded and waits for repair",
                     *result.error);
            mark(change, "error in the trigger");
            return;
        }
        switch (result.kept) {
            case Kept::Unchanged:
            case Kept::Created:
            case Kept::Changed:
                pg::metrics::count_at_commit(core::Metric::SnapshotRowsApplied);
                count_kept(result.kept);
                return;
            case Kept::NoIndex:
                mark(change, "the log has no index that finds a record");
                return;
            case Kept::TooLarge:
                mark(change, "record too large");
                return;
            case Kept::Busy:
                break;
        }
        if (budget.waited_ms >= kMaxWaitMs) {
            mark(change, "busy");
            return;
        }
        const int pause = std::min(pause_ms, kMaxWaitMs - budget.waited_ms);
        budget.waited_ms += pause;
        pg::guarded([pause] { pg::sleep_and_check_interrupts(pause); });
    }
}

// The record that the row belongs to. A table that somebody has changed beyond recognition still
// names its records, unless it has lost even these columns.
bool read_name(TriggerData* trigger, RecordName& name, bool& shape_is_known) {
    return pg::guarded([&] {
        const SyncShape& shape = shape_of(trigger->tg_relation);
        shape_is_known = shape.missing_column == nullptr;
        if (shape.user_id == 0 || shape.table_name == 0 || shape.record_id == 0)
            return false;
        TupleTableSlot* slot = trigger->tg_trigslot;
        bool null_user = false;
        bool null_table = false;
        bool null_record = false;
        const Datum user = slot_getattr(slot, shape.user_id, &null_user);
        const Datum table = slot_getattr(slot, shape.table_name, &null_table);
        const Datum record = slot_getattr(slot, shape.record_id, &null_record);
        if (null_user || null_table || null_record)
            return false;
        name.key = {PointerGetDatum(DatumGetTextPP(user)), PointerGetDatum(DatumGetTextPP(table)),
                    PointerGetDatum(DatumGetTextPP(record))};
        const text* name_of_table = DatumGetTextPP(table);
        return kind_of_table(
            {VARDATA_ANY(name_of_table), static_cast<size_t>(VARSIZE_ANY_EXHDR(name_of_table))},
            &name.kind);
    });
}

}  // namespace

}  // namespace mana_ai

extern "C" {

PG_FUNCTION_INFO_V1(mana_ai_fold_sync_change);
PGDLLEXPORT Datum mana_ai_fold_sync_change(PG_FUNCTION_ARGS) {
    using namespace mana_ai;
    return pg::entry_point([fcinfo] {
        if (!CALLED_AS_TRIGGER(fcinfo))
            throw pg::make_error(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED,
                                 "mana_ai.fold_sync_change() must be called as a trigger", {},
                                 "Use mana_ai.attach() to put it on a table.");
        auto* trigger = reinterpret_cast<TriggerData*>(fcinfo->context);
        if (!TRIGGER_FIRED_AFTER(trigger->tg_event) ||
            !TRIGGER_FIRED_BY_INSERT(trigger->tg_event) ||
            !TRIGGER_FIRED_FOR_ROW(trigger->tg_event))
            throw pg::make_error(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED,
                                 "mana_ai.fold_sync_change() must be fired AFTER INSERT FOR EACH "
                                 "ROW",
                                 {}, "Use mana_ai.attach() to put it on a table.");
        begin_row();
        Change change{trigger, {}};
        bool named = false;
        bool shape_is_known = true;
        try {
            named = read_name(trigger, change.name, shape_is_known);
        } catch (const pg::PgError& error) {
            if (error.is_interrupt())
                throw;
            log_once("a new row could not be read", error);
        }
        if (named && !shape_is_known)
            mark(change, "columns of the table are not as expected");
        else if (named && !ids_fit(change.name.key))
            mark(change, "ids too long");
        else if (named)
            fold(change);
        else if (!shape_is_known)
            log_once("a new row does not name its record",
                     pg::make_error(ERRCODE_UNDEFINED_COLUMN, "columns are missing"));
        return PointerGetDatum(nullptr);
    });
}

}  // extern "C"
