// The trigger on mana-sync's table: every new row of a mission or an agent goes into its snapshot
// in the inserting transaction (docs/contract/data.md, Snapshots).
//
// Whatever happens in here, the insert continues: a record that cannot be updated now is marked and
// repaired later. Only a cancel or a termination of the session is not caught.

#include <algorithm>
#include <iterator>
#include <optional>
#include <string_view>
#include <utility>

#include "mana_ai/extension/sync/dirty_records.hpp"
#include "mana_ai/extension/sync/input_marks.hpp"
#include "mana_ai/extension/sync/own_tables.hpp"
#include "mana_ai/extension/sync/snapshots.hpp"
#include "mana_ai/pg/compat.hpp"
#include "mana_ai/pg/crash_watch.hpp"
#include "mana_ai/pg/failpoint.hpp"
#include "mana_ai/pg/guard.hpp"
#include "mana_ai/pg/log.hpp"
#include "mana_ai/pg/metrics.hpp"
#include "mana_ai/pg/record_lock.hpp"
#include "mana_ai/pg/shared_state.hpp"
#include "mana_ai/pg/subtransaction.hpp"
#include "mana_ai/pg/text.hpp"
#include "mana_ai/pg/time.hpp"
#include "mana_ai/pg/wake.hpp"

extern "C" {
#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/pg_class.h"
#include "commands/trigger.h"
#include "miscadmin.h"
#include "storage/proc.h"
}

namespace mana_ai {

namespace {

// The first rows of a transaction run in subtransactions, so that any error can be undone. A bulk
// load continues without them: more than 64 in one transaction slow down every MVCC snapshot in the
// server, and a failure that first occurs after this many rows (a full disk) makes the load itself
// fail as well. After a failing row all following ones are protected.
constexpr int kProtectedRows = 32;

// How long one transaction waits in total for others that work on the same records; and at a time,
// so that waiting for a short transaction costs little more than that takes.
constexpr int kMaxWaitMs = 200;
constexpr int kMaxPauseMs = 8;
constexpr int kRowMs = 20;

// The next ones are for all records of a user: each takes a subtransaction.
constexpr int kMaxInputMarks = 31;

struct TransactionBudget {
    int rows = 0;
    bool has_failed = false;
    int waited_ms = 0;
    // A wait for a lock has failed: nothing that may need it is tried again.
    bool is_locked_out = false;
    // The last mark, valid while the subtransaction that made it is the current one: a thousand
    // rows of a record that somebody else has locked need one mark.
    SubTransactionId marked_in = InvalidSubTransactionId;
    Marked marked = Marked::Record;
    uint64_t marked_name = 0;
    // The marked record needs repair and is not tried again.
    bool marked_for_repair = false;
    UserMarks user_marks;
    // The table of marks was locked: not tried again for the rest of the transaction.
    bool marks_are_locked = false;
    uint64_t unmarked = 0;
    // Marks of inputs (input_marks.hpp), and the last one for all records of a user.
    int input_marks = 0;
    uint64_t all_marked_of = 0;
    SubTransactionId all_marked_in = InvalidSubTransactionId;
    bool input_marks_are_locked = false;
} budget;

bool callback_registered = false;

extern "C" {
static void end_transaction(XactEvent event, void*) {
    if (event == XACT_EVENT_PRE_COMMIT || event == XACT_EVENT_PRE_PREPARE ||
        event == XACT_EVENT_PARALLEL_PRE_COMMIT)
        return;
    // A prepared transaction may still be rolled back: the fold is then unnecessary.
    if (budget.unmarked > 0 && (event == XACT_EVENT_COMMIT || event == XACT_EVENT_PREPARE))
        pg::shared_state::count_unmarked_changes(MyDatabaseId, budget.unmarked);
    budget = TransactionBudget{};
}
}

enum class Fault : uint8_t { NotFolded, NotMarked, IdsTooLong, NotRead, NotNoted, Count };
bool was_logged[static_cast<size_t>(Fault::Count)];

void log_once(Fault fault, const std::string& what) {
    bool& logged = was_logged[static_cast<size_t>(fault)];
    if (logged)
        return;
    logged = true;
    pg::log_info(what + "; further ones of this session are only counted");
}

// The report of an error must not quote the row; its SQLSTATE is enough for a search.
void report(Fault fault, const char* what, const pg::PgError& error) {
    pg::shared_state::count_trigger_error();
    budget.has_failed = true;
    log_once(fault, std::string(what) + " (SQLSTATE " + unpack_sql_state(error.sqlstate) + ")");
}

void begin_budget() {
    if (!callback_registered) {
        RegisterXactCallback(end_transaction, nullptr);
        callback_registered = true;
    }
}

void begin_row() {
    begin_budget();
    budget.rows++;
}

int time_left_ms() {
    return kMaxWaitMs - budget.waited_ms;
}

int milliseconds_since(core::Instant start) {
    return static_cast<int>((pg::monotonic_now() - start) / 1000);
}

// Waits a moment, which counts against the transaction's limit.
void pause(int milliseconds) {
    const core::Instant start = pg::monotonic_now();
    pg::guarded([milliseconds] { pg::sleep_and_check_interrupts(milliseconds); });
    budget.waited_ms += std::max(1, milliseconds_since(start));
}

// Tables and rows are locked without waiting, but a lock on only an index or a TOAST table is met
// inside PostgreSQL. This limits that wait like lock_timeout, to the rest of the transaction's
// time. A failure must then be in a subtransaction.
class BoundedLockWaits {
 public:
    BoundedLockWaits() : previous_(LockTimeout) {
        const int left = std::max(1, time_left_ms());
        if (previous_ == 0 || previous_ > left)
            LockTimeout = left;
    }
    ~BoundedLockWaits() {
        LockTimeout = previous_;
        // The time of the wait is unknown; without it a row takes no longer than kRowMs.
        budget.waited_ms += std::max(0, milliseconds_since(start_) - kRowMs);
    }
    BoundedLockWaits(const BoundedLockWaits&) = delete;
    BoundedLockWaits& operator=(const BoundedLockWaits&) = delete;

 private:
    int previous_;
    core::Instant start_ = pg::monotonic_now();
};

template <class F>
std::optional<pg::PgError> in_bounded_subtransaction(F&& f) {
    const BoundedLockWaits bounded;
    return pg::in_subtransaction(std::forward<F>(f));
}

// Whether an administrator's additions to the extension's tables may fail for any row.
bool own_tables_have_additions() {
    bool found = true;
    if (pg::guarded([&] { return known_additions(found); }))
        return found;
    const auto error = in_bounded_subtransaction([&] {
        found = find_additions();
        return true;
    });
    return error || found;
}

bool is_protected() {
    return budget.rows <= kProtectedRows || budget.has_failed || own_tables_have_additions();
}

struct Change {
    TriggerData* trigger;
    RecordName name;
};

// A change that could not even be marked. Its commit requests a new fold of the log.
void leave_unmarked(const char* why) {
    budget.unmarked++;
    pg::wake_worker_at_commit();
    log_once(Fault::NotMarked,
             std::string("a changed record could not even be marked as dirty (") + why +
                 "); the log is folded again when the cause is gone, by the worker or by "
                 "mana_ai.refresh_snapshots()");
}

struct Hashes {
    uint64_t user, name;
};
Hashes hashes_of(const Change& change) {
    return pg::guarded([&] { return Hashes{user_hash(change.name.key), change.name.hash}; });
}

bool is_marked(const Hashes& hashes) {
    if (budget.marked_in != GetCurrentSubTransactionId())
        return false;
    return budget.marked == Marked::User ? budget.user_marks.user_hash == hashes.user
                                         : budget.marked_name == hashes.name;
}

void mark(const Change& change, const char* reason, bool for_repair = false) {
    const pg::crash_watch::Scope marking(pg::crash_watch::Code::Mark);
    if (budget.marks_are_locked) {
        leave_unmarked("the table of marks is locked");
        return;
    }
    const Hashes hashes = hashes_of(change);
    if (is_marked(hashes)) {
        budget.marked_for_repair |= for_repair;
        return;
    }
    for (;;) {
        Marked marked = Marked::TableIsLocked;
        const auto error = in_bounded_subtransaction([&] {
            MANA_AI_FAILPOINT("trigger.mark");
            marked = try_mark_dirty(change.name.key, reason, budget.user_marks);
            MANA_AI_FAILPOINT("trigger.marked");
            return marked != Marked::TableIsLocked;
        });
        if (error && error->sqlstate != ERRCODE_LOCK_NOT_AVAILABLE) {
            report(Fault::NotMarked, "a changed record could not even be marked as dirty", *error);
            leave_unmarked("error");
            return;
        }
        if (marked != Marked::TableIsLocked) {
            budget.marked_in = GetCurrentSubTransactionId();
            budget.marked = marked;
            budget.marked_name = hashes.name;
            budget.marked_for_repair = for_repair;
            pg::wake_worker_at_commit();
            return;
        }
        if (time_left_ms() <= 0) {
            budget.marks_are_locked = true;
            leave_unmarked("the table of marks is locked");
            return;
        }
        pause(std::min(kMaxPauseMs, time_left_ms()));
    }
}

// For the report of a crash.
void name_record(const Change& change) {
    const auto view = [](Datum datum) {
        return pg::text_view(reinterpret_cast<const text*>(DatumGetPointer(datum)));
    };
    pg::crash_watch::note_mission(view(change.name.key.user_id), view(change.name.key.record_id));
}

// A statement that inserts many rows of one record has them all in the log before the first of
// their triggers runs. So a new record is made of all of them at once, and the second row of an
// existing record folds all others; the other triggers then have nothing to do. Otherwise a restore
// of n rows would write n versions of the record, and each lookup would have to skip the previous
// ones.
struct RowsOfStatement {
    uint64_t name;  // a hash
    Oid leaf;
    LocalTransactionId transaction;
    SubTransactionId subtransaction;
    CommandId statement;
    uint32_t rows;
    bool are_folded;

    bool is_of_same(const RowsOfStatement& other) const {
        return name == other.name && leaf == other.leaf && transaction == other.transaction &&
               subtransaction == other.subtransaction && statement == other.statement;
    }
};
RowsOfStatement rows_of_statements[2048];
constexpr uint32_t kOthersToPassOver = 16;

RowsOfStatement& place_of(const RowsOfStatement& rows) {
    return rows_of_statements[rows.name % std::size(rows_of_statements)];
}

RowsOfStatement count_row_of_statement(const Change& change) {
    const CommandId statement = HeapTupleHeaderGetCmin(change.trigger->tg_trigtuple->t_data);
    const RowsOfStatement none{change.name.hash,
                               RelationGetRelid(change.trigger->tg_relation),
                               pg::compat::current_local_transaction(),
                               GetCurrentSubTransactionId(),
                               statement,
                               0,
                               false};
    RowsOfStatement& known = place_of(none);
    if (!known.is_of_same(none))
        known = none;
    known.rows++;
    return known;
}

// An administrator's code that a write has called may have replaced them.
void note_folded(const RowsOfStatement& rows) {
    RowsOfStatement& known = place_of(rows);
    if (known.is_of_same(rows))
        known.are_folded = true;
}

struct Attempt {
    Kept kept = Kept::Unchanged;
    std::optional<pg::PgError> error;
    bool has_all_own_rows = false;
};

void keep(const Change& change, uint32_t row_of_statement, Attempt& result) {
    SnapshotStore store;
    open_store(store, change.trigger->tg_relation);
    // The 2nd, 4th, 8th, ...: a row that changes nothing does not read the others, and few rows are
    // skipped in relation to the rows themselves.
    if (row_of_statement > 1 && (row_of_statement & (row_of_statement - 1)) == 0)
        store.others_to_pass_over = kOthersToPassOver * row_of_statement;
    const ChangeRow row =
        read_change_row(change.trigger->tg_trigslot, *store.shape, store.place, false);
    MANA_AI_FAILPOINT("trigger.row");
    // If the record cannot be made, the following rows do not read them all again.
    result.kept = keep_record(store, change.name, &row,
                              row_of_statement == 1 ? ScanLimit::FewOfOthers : ScanLimit::FewRows);
    result.has_all_own_rows = store.has_all_own_rows;
    MANA_AI_FAILPOINT("trigger.folded");
    close_store(store);
}

Attempt attempt(const Change& change, uint32_t row_of_statement) {
    Attempt result;
    auto body = [&] {
        keep(change, row_of_statement, result);
        return result.kept != Kept::Busy;
    };
    if (budget.is_locked_out) {
        result.kept = Kept::Busy;
    } else if (!is_protected()) {
        pg::guarded(body);
    } else {
        result.error = in_bounded_subtransaction(body);
        if (result.error && result.error->sqlstate == ERRCODE_LOCK_NOT_AVAILABLE) {
            result.kept = Kept::Busy;
            result.error.reset();
            budget.waited_ms = kMaxWaitMs;
            budget.is_locked_out = true;
        }
    }
    return result;
}

void fold(const Change& change) {
    if (budget.marked_for_repair && is_marked(hashes_of(change)))
        return;
    const pg::crash_watch::Scope folding(pg::crash_watch::Code::Trigger);
    name_record(change);
    const RowsOfStatement rows = pg::guarded([&] { return count_row_of_statement(change); });
    if (rows.are_folded) {
        pg::metrics::count_at_commit(core::Metric::SnapshotRowsApplied);
        return;
    }
    for (int pause_ms = 1;; pause_ms = std::min(pause_ms * 2, kMaxPauseMs)) {
        const Attempt result = attempt(change, rows.rows);
        if (result.error) {
            report(Fault::NotFolded, "a change of a mission or agent could not be folded",
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
                if (result.has_all_own_rows)
                    note_folded(rows);
                return;
            case Kept::NoIndex:
                mark(change, "the log has no index that finds a record");
                return;
            case Kept::TooLong:
                mark(change, "long history", true);
                return;
            case Kept::TooLarge:
                mark(change, "record too large");
                return;
            case Kept::Busy:
                break;
        }
        if (time_left_ms() <= 0) {
            mark(change, "busy");
            return;
        }
        pause(std::min(pause_ms, time_left_ms()));
    }
}

enum class Subject : uint8_t {
    NotOurs,
    Record,
    Unknown,  // columns that name a record are missing
    Hidden,   // the table is not cached yet, or a value is compressed or stored out of line
};

// The text in the column, if it can be read in place; nullopt: it cannot. A missing or null column
// reads as empty.
std::optional<std::string_view> text_in_place(TupleTableSlot* slot, AttrNumber column) {
    if (column == 0)
        return std::string_view();
    bool is_null = false;
    const Datum value = slot_getattr(slot, column, &is_null);
    if (is_null)
        return std::string_view();
    const auto* stored = reinterpret_cast<const varlena*>(DatumGetPointer(value));
    if (VARATT_IS_EXTENDED(stored) && !VARATT_IS_SHORT(stored))
        return std::nullopt;
    return pg::text_view(stored);
}

// Whether the row is of a mission or an agent. May ereport(ERROR).
bool is_of_our_table(TupleTableSlot* slot, const SyncShape& shape, RecordName& name) {
    bool is_null = false;
    const Datum table = slot_getattr(slot, shape.table_name, &is_null);
    if (is_null)
        return false;
    const text* packed = DatumGetTextPP(table);
    name.key.table_name = PointerGetDatum(packed);
    return kind_of_table(pg::text_view(packed), &name.kind);
}

// Which record it is. May ereport(ERROR).
Subject read_record(TupleTableSlot* slot, const SyncShape& shape, RecordName& name) {
    if (shape.user_id == 0 || shape.table_name == 0 || shape.record_id == 0)
        return Subject::Unknown;
    bool no_user = false;
    bool no_record = false;
    const Datum user = slot_getattr(slot, shape.user_id, &no_user);
    const Datum record = slot_getattr(slot, shape.record_id, &no_record);
    if (no_user || no_record)
        return Subject::NotOurs;
    name.key.user_id = PointerGetDatum(DatumGetTextPP(user));
    name.key.record_id = PointerGetDatum(DatumGetTextPP(record));
    name.hash = name_hash(name.key);
    return Subject::Record;
}

// The row's record. Most rows are of other apps, which is checked first. Even a table with changed
// columns still names its records, unless it has lost these columns. May ereport(ERROR).
Subject read_subject(TriggerData* trigger, RecordName& name) {
    const SyncShape& shape = shape_of(trigger->tg_relation);
    TupleTableSlot* slot = trigger->tg_trigslot;
    if (shape.app_id != 0 && !is_column_text(slot, shape.app_id, "ai"))
        return Subject::NotOurs;
    if (shape.table_name != 0 && !is_of_our_table(slot, shape, name))
        return Subject::NotOurs;
    return read_record(slot, shape, name);
}

// The same as far as it cannot fail. Needs no subtransaction; hardly any row is Hidden.
inline Subject look_at_subject(TriggerData* trigger, RecordName& name) {
    const SyncShape* shape = known_shape(trigger->tg_relation);
    TupleTableSlot* slot = trigger->tg_trigslot;
    if (shape == nullptr)
        return Subject::Hidden;
    const auto app = text_in_place(slot, shape->app_id);
    if (!app)
        return Subject::Hidden;
    if (shape->app_id != 0 && *app != "ai")
        return Subject::NotOurs;
    const auto table = text_in_place(slot, shape->table_name);
    if (!table)
        return Subject::Hidden;
    if (shape->table_name != 0 && !kind_of_table(*table, &name.kind))
        return Subject::NotOurs;
    if (!text_in_place(slot, shape->user_id) || !text_in_place(slot, shape->record_id))
        return Subject::Hidden;
    if (shape->table_name != 0)
        is_of_our_table(slot, *shape, name);
    return read_record(slot, *shape, name);
}

void keep_long_ids_out() {
    pg::metrics::count_at_commit(core::Metric::ChangesUnkeepable);
    log_once(Fault::IdsTooLong, "a changed record has ids that are too long for a snapshot");
}

// A row of another app's record that somebody may wait for. A change that cannot be marked wakes
// nobody; that is not worth a fold of the log.
[[gnu::noinline]] void mark_input(TriggerData* trigger, const SyncShape& shape) {
    const pg::crash_watch::Scope marking(pg::crash_watch::Code::Mark);
    begin_budget();
    const bool all_of_user = budget.input_marks >= kMaxInputMarks;
    const SubTransactionId present = GetCurrentSubTransactionId();
    const uint64_t user = user_hash(trigger->tg_trigslot, shape);
    if (budget.input_marks_are_locked ||
        (all_of_user && budget.all_marked_in == present && budget.all_marked_of == user))
        return;
    InputMarked marked = InputMarked::NoNeed;
    const auto error = in_bounded_subtransaction([&] {
        marked = try_mark_input(trigger->tg_trigslot, shape, all_of_user);
        return marked == InputMarked::Done;
    });
    if (!error && marked == InputMarked::Done) {
        budget.input_marks++;
        if (all_of_user) {
            budget.all_marked_of = user;
            budget.all_marked_in = present;
        }
    }
    budget.input_marks_are_locked = marked == InputMarked::Locked;
    if (error)
        report(Fault::NotNoted, "a change of an input could not be marked", *error);
    else if (marked == InputMarked::Locked)
        log_once(Fault::NotNoted, "a change of an input could not be marked (table locked)");
}

inline void look_for_input(TriggerData* trigger) {
    const SyncShape* shape = known_shape(trigger->tg_relation);
    if (shape != nullptr && pg::guarded([&] { return may_wake(trigger->tg_trigslot, *shape); }))
        mark_input(trigger, *shape);
}

// A row that may be of a mission or an agent. Not inlined, to keep the path of other rows short.
[[gnu::noinline]] void keep_row(Change change, Subject subject, pg::crash_watch::TriggerMode mode) {
    TriggerData* const trigger = change.trigger;
    // mana_ai of that server handles it.
    if (trigger->tg_relation->rd_rel->relkind == RELKIND_FOREIGN_TABLE)
        return;
    std::optional<pg::PgError> error;
    if (subject == Subject::Hidden) {
        subject = Subject::Unknown;
        error = pg::in_subtransaction([&] {
            subject = read_subject(trigger, change.name);
            return true;
        });
    }
    if (subject == Subject::NotOurs) {
        if (!error && mode != pg::crash_watch::TriggerMode::MarkOnly)
            look_for_input(trigger);
        return;
    }
    begin_row();
    if (error)
        report(Fault::NotRead, "a new row could not be read", *error);
    if (subject == Subject::Unknown) {
        leave_unmarked("its row does not name it");
        return;
    }
    struct Seen {
        const char* problem;
        bool ids_fit;
    };
    const Seen seen = pg::guarded([&] {
        return Seen{source_problem(trigger->tg_relation), ids_fit(change.name.key)};
    });
    if (!seen.ids_fit)
        keep_long_ids_out();
    else if (seen.problem != nullptr)
        mark(change, seen.problem);
    else if (mode == pg::crash_watch::TriggerMode::MarkOnly)
        mark(change, "safe mode");
    else
        fold(change);
}

[[gnu::noinline]] void count_row_only() {
    begin_row();
    leave_unmarked("safe mode");
}

void take_row(TriggerData* trigger) {
    const auto mode = pg::crash_watch::trigger_mode();
    if (mode == pg::crash_watch::TriggerMode::CountOnly) {
        count_row_only();
        return;
    }
    const pg::crash_watch::Scope marking(pg::crash_watch::Code::Mark);
    Change change{trigger, {}};
    const Subject subject = pg::guarded([&] { return look_at_subject(trigger, change.name); });
    if (subject != Subject::NotOurs)
        keep_row(change, subject, mode);
    else if (mode != pg::crash_watch::TriggerMode::MarkOnly)
        look_for_input(trigger);
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
        take_row(trigger);
        return PointerGetDatum(nullptr);
    });
}

}  // extern "C"
