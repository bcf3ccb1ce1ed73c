#include "mana_ai/extension/sync/dirty_records.hpp"

#include <algorithm>
#include <set>
#include <string>

#include "mana_ai/extension/sync/own_tables.hpp"
#include "mana_ai/extension/sync/snapshots.hpp"
#include "mana_ai/extension/sync/user_records.hpp"
#include "mana_ai/pg/failpoint.hpp"
#include "mana_ai/pg/metrics.hpp"
#include "mana_ai/pg/record_lock.hpp"
#include "mana_ai/pg/scratch_memory.hpp"
#include "mana_ai/pg/shared_state.hpp"
#include "mana_ai/pg/spi.hpp"
#include "mana_ai/pg/subtransaction.hpp"
#include "mana_ai/pg/text.hpp"
#include "mana_ai/pg/time.hpp"

extern "C" {
#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_class.h"
#include "common/hashfn.h"
#include "fmgr.h"
#include "miscadmin.h"
}

namespace mana_ai {

namespace {

// Above this number a user has one mark for all records, so that nobody's marks fill the disk or
// delay others.
constexpr int kMaxMarksOfUser = 1000;
// How many of one user are tried before the next user's turn.
constexpr int kMarksPerTurn = 10;
// The maximum of records that a turn of a user with one mark for all replays; the time limit is the
// time that it took to find them, so that finding them again does not dominate.
constexpr int kRecordsPerTurn = 20'000;
constexpr int64_t kShortestTurnUs = 500'000;
constexpr int kMaxOversizedOfUser = 100;
constexpr char kBusy[] = "busy";
constexpr char kTooLarge[] = "record too large";

const char* reason_of(Kept kept) {
    switch (kept) {
        case Kept::Busy:
            return kBusy;
        case Kept::NoIndex:
            return "the log has no index that finds a record";
        case Kept::TooLong:
            return "long history";
        case Kept::TooLarge:
            return kTooLarge;
        default:
            return nullptr;
    }
}

// A mark of all records of a user has neither table nor record. During the repair `record_id` is
// the name of the last repaired one (user_records.hpp); marking the user again does not find that
// mark and makes another one.
struct Mark {
    std::string user_id;
    std::string table_name;
    std::string record_id;
    std::string id;
    std::string reason;
    bool is_of_user() const { return table_name.empty(); }
};

void insert_mark(const std::string& user_id, const std::string& table_name,
                 const std::string& record_id, std::string_view reason) {
    static pg::Statement insert(R"sql(
INSERT INTO mana_ai.dirty_records (user_id, table_name, record_id, reason)
VALUES ($1, $2, $3, $4))sql");
    insert.execute({std::string_view(user_id), std::string_view(table_name),
                    std::string_view(record_id), reason});
}

// Adds a mark for a record that repair found. It may rely on an existing mark that nobody else is
// removing. False: the user has too many.
bool add_record_mark(const Mark& mark, std::string_view reason) {
    static pg::Statement hold(R"sql(
SELECT 1 FROM mana_ai.dirty_records WHERE user_id = $1 AND table_name = $2 AND record_id = $3
 LIMIT 1 FOR KEY SHARE SKIP LOCKED)sql");
    static pg::Statement insert(R"sql(
INSERT INTO mana_ai.dirty_records (user_id, table_name, record_id, reason)
SELECT $1, $2, $3, $4
 WHERE (SELECT count(*) FROM (SELECT FROM mana_ai.dirty_records d WHERE d.user_id = $1 LIMIT $5) c) < $5)sql");
    if (!hold.execute({std::string_view(mark.user_id), std::string_view(mark.table_name),
                       std::string_view(mark.record_id)})
             .rows.empty())
        return true;
    return insert
               .execute({std::string_view(mark.user_id), std::string_view(mark.table_name),
                         std::string_view(mark.record_id), reason, int64_t{kMaxMarksOfUser}})
               .processed > 0;
}

void remove_mark(const Mark& mark) {
    static pg::Statement remove("DELETE FROM mana_ai.dirty_records WHERE id = $1::uuid");
    if (remove.execute({std::string_view(mark.id)}).processed == 0)
        throw pg::make_error(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                             "a mark of a repaired record could not be removed");
}

// False: too many records of the user are already set aside.
bool set_aside(const Mark& mark) {
    static pg::Statement insert(R"sql(
INSERT INTO mana_ai.oversized_records AS o (user_id, table_name, record_id)
SELECT $1, $2, $3
 WHERE (SELECT count(*) FROM (SELECT FROM mana_ai.oversized_records x WHERE x.user_id = $1 LIMIT $4) c) < $4
    ON CONFLICT (user_id, table_name, record_id) DO UPDATE SET ts = clock_timestamp())sql");
    return insert
               .execute({std::string_view(mark.user_id), std::string_view(mark.table_name),
                         std::string_view(mark.record_id), int64_t{kMaxOversizedOfUser}})
               .processed > 0;
}

void remove_oversized(const Mark& mark) {
    static pg::Statement remove(R"sql(
DELETE FROM mana_ai.oversized_records WHERE user_id = $1 AND table_name = $2 AND record_id = $3)sql");
    remove.execute({std::string_view(mark.user_id), std::string_view(mark.table_name),
                    std::string_view(mark.record_id)});
}

// Null if the record is now correct; else why not, and the changes must be undone. May
// ereport(ERROR).
const char* replay_now(const Mark& mark) {
    RecordName name{};
    name.key = {pg::text_datum(mark.user_id), pg::text_datum(mark.table_name),
                pg::text_datum(mark.record_id)};
    const Oid log_oid = attached_relation();
    if (!kind_of_table(mark.table_name, &name.kind) || !OidIsValid(log_oid) || !ids_fit(name.key))
        return nullptr;
    Relation log = table_open(log_oid, AccessShareLock);
    const char* problem = log_problem(log);
    if (problem == nullptr) {
        SnapshotStore store;
        if (log->rd_rel->relkind == RELKIND_PARTITIONED_TABLE)
            open_store(store, log_oid);
        else
            open_store(store, log);
        const Kept kept = keep_record(store, name, nullptr, ScanLimit::None);
        MANA_AI_FAILPOINT("repair.record");
        count_kept(kept);
        problem = reason_of(kept);
        close_store(store);
    }
    // Who creates or drops partitions does not wait for the rest of the repair.
    table_close(log, AccessShareLock);
    return problem;
}

// Replays the record and, if it is then correct, calls `then`. Both take effect, or neither.
template <class Then>
const char* replay(const Mark& mark, const Then& then) {
    const pg::ScratchMemory scratch("mana_ai repair");
    const char* problem = nullptr;
    const auto error = pg::in_subtransaction([&] {
        problem = replay_now(mark);
        if (problem == nullptr)
            then();
        return problem == nullptr;
    });
    if (error && error->sqlstate == ERRCODE_PROGRAM_LIMIT_EXCEEDED)
        return kTooLarge;
    return error ? "error during repair" : problem;
}

}  // namespace

const char* replay_one_record(const std::string& user_id, const std::string& table_name,
                              const std::string& record_id) {
    const pg::ScratchMemory scratch("mana_ai replay");
    Mark record;
    record.user_id = user_id;
    record.table_name = table_name;
    record.record_id = record_id;
    return pg::guarded([&record] { return replay_now(record); });
}

namespace {

bool repair_record(const Mark& mark) {
    const char* problem = replay(mark, [&mark] {
        remove_mark(mark);
        remove_oversized(mark);
    });
    if (problem == nullptr)
        return true;
    bool is_set_aside = false;
    (void)pg::in_subtransaction([&] {
        is_set_aside = problem == kTooLarge && set_aside(mark);
        if (is_set_aside) {
            remove_mark(mark);
        } else if (mark.reason != problem) {
            static pg::Statement say_why(
                "UPDATE mana_ai.dirty_records SET reason = $2 WHERE id = $1::uuid");
            say_why.execute({std::string_view(mark.id), std::string_view(problem)});
        }
        return true;
    });
    return is_set_aside;
}

// Replays the next records of a user with one mark for all, up to one that somebody else has
// locked. Those that cannot be repaired for another reason get their own mark, if there is room.
bool repair_user(const Mark& mark) {
    const core::Instant began = pg::monotonic_now();
    const std::set<std::string> names =
        next_records_of_user(mark.user_id, mark.record_id, kRecordsPerTurn);
    const core::Instant found = pg::monotonic_now();
    const core::Instant end = found + std::max(found - began, kShortestTurnUs);
    std::string done = mark.record_id;
    bool is_last = names.size() < static_cast<size_t>(kRecordsPerTurn);
    for (const std::string& name : names) {
        Mark record = mark;
        split_record_name(name, record.table_name, record.record_id);
        const char* problem = pg::monotonic_now() < end ? replay(record, [] {}) : kBusy;
        const bool settled = problem == nullptr || (problem == kTooLarge && set_aside(record)) ||
                             (problem != kBusy && add_record_mark(record, problem));
        if (!settled) {
            is_last = false;
            break;
        }
        done = name;
    }
    if (!is_last && done == mark.record_id)
        return false;
    if (!is_last)
        insert_mark(mark.user_id, "", done, mark.reason);
    remove_mark(mark);
    return true;
}

// A failure of one user must not undo the repairs of others.
bool try_to_repair_user(const Mark& mark) {
    bool done = false;
    const auto error = pg::in_subtransaction([&] {
        done = repair_user(mark);
        return true;
    });
    return done && !error;
}

struct Turn {
    int repaired = 0;
    int left = 0;
    int looked_at = 0;
    bool has_users_mark = false;
    bool is_last = false;  // there is no user after these
};

// Locks the marks that it reads: only a mark from before the replay is removed, and not while a
// transaction that relies on it is open.
Turn repair_from(std::string& next_user, int users, int marks_of_each) {
    static pg::Statement select_users(R"sql(
WITH RECURSIVE u(user_id) AS (
  (SELECT d.user_id FROM mana_ai.dirty_records d WHERE d.user_id >= $1 ORDER BY d.user_id LIMIT 1)
  UNION ALL
  SELECT (SELECT d.user_id FROM mana_ai.dirty_records d WHERE d.user_id > u.user_id
           ORDER BY d.user_id LIMIT 1)
    FROM u WHERE u.user_id IS NOT NULL)
SELECT user_id FROM u WHERE user_id IS NOT NULL LIMIT $2)sql");
    static pg::Statement select_marks(R"sql(
SELECT table_name, record_id, id::text, reason FROM mana_ai.dirty_records
 WHERE user_id = $1 ORDER BY random() LIMIT $2 FOR UPDATE SKIP LOCKED)sql");
    Turn turn;
    const pg::StatementResult found =
        select_users.execute({std::string_view(next_user), int64_t{users}});
    for (const pg::Row& user : found.rows) {
        for (pg::Row& row :
             select_marks.execute({std::string_view(user.text(0)), int64_t{marks_of_each}}).rows) {
            const Mark mark{user.text(0), row.take_text(0), row.take_text(1), row.take_text(2),
                            row.take_text(3)};
            // Several transactions may have marked the user at the same time.
            if (mark.is_of_user() && turn.has_users_mark)
                continue;
            turn.looked_at++;
            turn.has_users_mark |= mark.is_of_user();
            const bool done = mark.is_of_user() ? try_to_repair_user(mark) : repair_record(mark);
            (done ? turn.repaired : turn.left)++;
        }
        next_user = user.text(0) + '\x01';  // nothing is between the two
    }
    turn.is_last = found.rows.size() < static_cast<size_t>(users);
    if (turn.is_last)
        next_user.clear();
    return turn;
}

// The last argument of settle_unmarked_at_commit(); 0 = none.
uint64_t settle_at_commit = 0;

extern "C" {
static void settle_at_end(XactEvent event, void*) {
    if (event == XACT_EVENT_COMMIT && settle_at_commit > 0)
        pg::shared_state::settle_unmarked_changes(MyDatabaseId, settle_at_commit);
    if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT || event == XACT_EVENT_PREPARE)
        settle_at_commit = 0;
}

static void forget_to_settle(SubXactEvent event, SubTransactionId, SubTransactionId, void*) {
    if (event == SUBXACT_EVENT_ABORT_SUB)
        settle_at_commit = 0;
}
}

bool has_marks() {
    static pg::Statement find("SELECT 1 FROM mana_ai.dirty_records LIMIT 1");
    return !find.execute().rows.empty();
}

}  // namespace

uint64_t user_hash(const RecordKey& key) {
    const std::string_view user = pg::text_view(key.user_id);
    return hash_bytes_extended(reinterpret_cast<const unsigned char*>(user.data()),
                               static_cast<int>(user.size()), 0);
}

Marked try_mark_dirty(const RecordKey& key, const char* reason, UserMarks& counted) {
    if (!ids_fit(key)) {
        pg::metrics::count_at_commit(core::Metric::ChangesUnkeepable);
        return Marked::Record;
    }
    const Oid oid = dirty_table().key.table;
    if (!pg::try_lock_table(oid))
        return Marked::TableIsLocked;
    const DirtyTable& columns = dirty_table();  // read under lock
    pg::KeyedTable table;
    if (columns.key.table != oid || !pg::open_keyed_table(table, columns.key))
        return Marked::TableIsLocked;
    CommandCounterIncrement();
    const Datum nothing = PointerGetDatum(cstring_to_text(""));
    const Datum of_user[] = {key.user_id, nothing, nothing};
    const Datum of_record[] = {key.user_id, key.table_name, key.record_id};
    Marked marked = Marked::Record;
    if (const uint64_t hash = user_hash(key); counted.user_hash != hash)
        counted = {hash, -1};
    if (pg::hold_any_row(table, of_user)) {
        marked = Marked::User;
    } else if (!pg::hold_any_row(table, of_record)) {
        if (counted.count < 0)
            counted.count = pg::count_rows(table, of_record, 1, kMaxMarksOfUser);
        if (counted.count >= kMaxMarksOfUser)
            marked = Marked::User;
        const Datum* name = marked == Marked::User ? of_user : of_record;
        pg::RowValues row = pg::row_values(table.table);
        give(row, columns.user_id, name[0]);
        give(row, columns.table_name, name[1]);
        give(row, columns.record_id, name[2]);
        give(row, columns.reason, CStringGetTextDatum(reason));
        pg::insert_row(table, row);
        counted.count++;
    }
    pg::close_keyed_table(table);
    return marked;
}

void mark_dirty(const RecordKey& key, const char* reason) {
    constexpr int kMaxWaitMs = 1000;
    constexpr int kPauseMs = 8;
    UserMarks marks;
    for (int waited = 0; try_mark_dirty(key, reason, marks) == Marked::TableIsLocked;
         waited += kPauseMs) {
        if (waited >= kMaxWaitMs)
            ereport(ERROR, (errcode(ERRCODE_LOCK_NOT_AVAILABLE),
                            errmsg("table \"mana_ai.dirty_records\" is locked")));
        pg::sleep_and_check_interrupts(kPauseMs);
    }
}

RepairCounts repair_dirty_records(int limit) {
    static std::string next_user;
    RepairCounts counts;
    if (!has_marks())
        return counts;
    // Rounds over the users, as long as a round repairs something.
    bool is_whole_round = next_user.empty();
    for (int looked_at = 0, in_round = 0; looked_at < limit;) {
        const Turn turn = repair_from(next_user, 1, std::min(kMarksPerTurn, limit - looked_at));
        // It takes as long as all others together.
        looked_at += turn.has_users_mark ? limit : turn.looked_at;
        in_round += turn.repaired;
        counts.repaired += turn.repaired;
        counts.left += turn.left;
        if (!turn.is_last)
            continue;
        if (is_whole_round && in_round == 0)
            break;
        is_whole_round = true;
        in_round = 0;
    }
    counts.more = has_marks();
    return counts;
}

int repair_all_dirty_records() {
    int repaired = 0;
    std::string next_user;
    for (int in_round = 0;;) {
        const Turn turn = repair_from(next_user, 100, kMaxMarksOfUser);
        in_round += turn.repaired;
        repaired += turn.repaired;
        pg::check_for_interrupts();
        if (!turn.is_last)
            continue;
        if (in_round == 0)
            return repaired;
        in_round = 0;
    }
}

void retry_oversized_records(SetAside which) {
    if (which == SetAside::All) {
        static pg::Statement remove_all("DELETE FROM mana_ai.oversized_records");
        remove_all.execute();
        return;
    }
    static pg::Statement mark(R"sql(
INSERT INTO mana_ai.dirty_records (user_id, table_name, record_id, reason)
SELECT o.user_id, o.table_name, o.record_id, 'record too large'
  FROM mana_ai.oversized_records o
 WHERE (EXISTS (SELECT FROM mana_ai.mission_snapshots m
                 WHERE o.table_name = 'aiMissions' AND m.user_id = o.user_id
                   AND m.mission_id = o.record_id AND m.updated_at > o.ts)
     OR EXISTS (SELECT FROM mana_ai.agent_snapshots a
                 WHERE o.table_name = 'agents' AND a.user_id = o.user_id
                   AND a.agent_id = o.record_id AND a.updated_at > o.ts)
     OR EXISTS (SELECT FROM mana_ai.record_tombstones t
                 WHERE t.user_id = o.user_id AND t.table_name = o.table_name
                   AND t.record_id = o.record_id))
   AND NOT EXISTS (SELECT FROM mana_ai.dirty_records d
                    WHERE d.user_id = o.user_id AND d.table_name = o.table_name
                      AND d.record_id = o.record_id))sql");
    mark.execute();
}

void settle_unmarked_at_commit(uint64_t seen) {
    static bool registered = false;
    if (!registered) {
        RegisterXactCallback(settle_at_end, nullptr);
        RegisterSubXactCallback(forget_to_settle, nullptr);
        registered = true;
    }
    settle_at_commit = seen;
}

int64_t count_dirty_records() {
    static pg::Statement count_marks(
        "SELECT count(*) FROM (SELECT FROM mana_ai.dirty_records LIMIT $1) d");
    return count_marks.execute({kMaxCountedMarks}, true).rows.front().number(0);
}

}  // namespace mana_ai

extern "C" {

PG_FUNCTION_INFO_V1(mana_ai_unmarked_changes);
PGDLLEXPORT Datum mana_ai_unmarked_changes(PG_FUNCTION_ARGS) {
    using namespace mana_ai;
    const auto unmarked =
        pg::entry_point([] { return pg::shared_state::unmarked_changes(MyDatabaseId); });
    if (!unmarked)
        PG_RETURN_NULL();
    PG_RETURN_INT64(static_cast<int64>(unmarked->waiting));
}

}  // extern "C"
