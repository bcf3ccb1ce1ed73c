// Creating and dropping the trigger on mana-sync's table (docs/contract/interface.md, attach()).

#include <string>
#include <vector>

#include "mana_ai/extension/sync/backfill.hpp"
#include "mana_ai/extension/sync/fold_batches.hpp"
#include "mana_ai/extension/sync/log_leaves.hpp"
#include "mana_ai/extension/sync/sync_table.hpp"
#include "mana_ai/pg/failpoint.hpp"
#include "mana_ai/pg/guard.hpp"
#include "mana_ai/pg/record_lock.hpp"
#include "mana_ai/pg/script_notice.hpp"
#include "mana_ai/pg/spi.hpp"
#include "mana_ai/pg/subtransaction.hpp"
#include "mana_ai/pg/wake.hpp"

extern "C" {
#include "access/table.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/partition.h"
#include "catalog/pg_class.h"
#include "storage/lmgr.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"
}

namespace mana_ai {

namespace {

constexpr char kTrigger[] = "mana_ai_fold";

struct Log {
    Oid oid;
    OpenLeaves leaves;
    Snapshot snapshot;
};

const char* quoted_name(Oid table) {
    return quote_qualified_identifier(get_namespace_name(get_rel_namespace(table)),
                                      get_rel_name(table));
}

Log open_with_snapshot(Oid oid) {
    return pg::guarded([oid] {
        Relation relation = open_log(oid);
        const OpenLeaves leaves = open_leaves(leaves_of(oid));
        // Partitions may be created meanwhile.
        const bool is_partitioned = relation->rd_rel->relkind == RELKIND_PARTITIONED_TABLE;
        table_close(relation, is_partitioned ? AccessShareLock : NoLock);
        CommandCounterIncrement();
        return Log{oid, leaves, RegisterSnapshot(GetLatestSnapshot())};
    });
}

void run(const std::string& sql) {
    pg::Statement statement(sql);
    statement.execute();
}

// No WHEN clause: PostgreSQL would parse it again in every statement, which costs more than the
// function's check of the row. ENABLE ALWAYS: rows that arrive by logical replication are changes
// too. DEPENDS ON EXTENSION: the table belongs to another role and stays, so DROP EXTENSION must
// not need CASCADE.
void create_trigger(const std::string& table) {
    run("CREATE TRIGGER " + std::string(kTrigger) + " AFTER INSERT ON " + table +
        " FOR EACH ROW EXECUTE FUNCTION mana_ai.fold_sync_change()");
    run("ALTER TABLE " + table + " ENABLE ALWAYS TRIGGER " + kTrigger);
    run("ALTER TRIGGER " + std::string(kTrigger) + " ON " + table +
        " DEPENDS ON EXTENSION mana_ai");
}

List* with_leaves(Oid log) {
    return list_concat_unique_oid(list_make1_oid(log), leaves_of(log));
}

struct WantedLock {
    Oid table;
    LOCKMODE mode;
};

// All of them, or none.
bool try_lock_all(const std::vector<WantedLock>& wanted) {
    for (size_t i = 0; i < wanted.size(); i++) {
        if (ConditionalLockRelationOid(wanted[i].table, wanted[i].mode))
            continue;
        while (i-- > 0)
            UnlockRelationOid(wanted[i].table, wanted[i].mode);
        return false;
    }
    return true;
}

// CREATE TRIGGER waits for the transactions that are writing, and all new writers wait behind it.
// So the locks are first requested without waiting, as long as that is likely to succeed soon. With
// partitions nothing else is tried: one of many is locked for long more often. `old` is the table
// that loses its trigger, or InvalidOid.
void lock_out_writers(Oid log, Oid old) {
    constexpr int kPatienceMs = 10'000;
    constexpr int kPauseMs = 10;
    for (int waited = 0; waited < kPatienceMs; waited += kPauseMs) {
        List* leaves = pg::guarded([log] { return with_leaves(log); });
        std::vector<WantedLock> wanted;
        if (OidIsValid(old))
            wanted.push_back({old, AccessExclusiveLock});
        for (int i = 0; i < list_length(leaves); i++)
            wanted.push_back({list_nth_oid(leaves, i), ShareRowExclusiveLock});
        const bool locked = pg::guarded([&wanted] { return try_lock_all(wanted); });
        if (locked)
            return;
        pg::guarded([] { pg::sleep_and_check_interrupts(kPauseMs); });
    }
    const bool is_partitioned =
        pg::guarded([log] { return get_rel_relkind(log) == RELKIND_PARTITIONED_TABLE; });
    if (is_partitioned)
        throw pg::make_error(ERRCODE_LOCK_NOT_AVAILABLE,
                             "could not lock all partitions of the log within 10 seconds", {},
                             "Try again when no other session locks one of them; VACUUM and CREATE "
                             "INDEX CONCURRENTLY do.");
    pg::guarded([log] { LockRelationOid(log, ShareRowExclusiveLock); });
}

bool is_partition_of(Oid table, Oid ancestor) {
    return get_rel_relispartition(table) &&
           list_member_oid(get_partition_ancestors(table), ancestor);
}

// The trigger is on a table that has become a partition: it moves to the partitioned one.
void drop_trigger(Oid table) {
    run("DROP TRIGGER " + std::string(kTrigger) + " ON " +
        pg::guarded([table] { return quoted_name(table); }));
}

// Rows of partitions that were created or attached during the fold.
void fold_new_leaves(const Log& log, FoldCounts& counts) {
    const OpenLeaves late = pg::guarded([&log] {
        return open_leaves(list_difference_oid(leaves_of(log.oid), log.leaves.in_use.leaves));
    });
    if (late.count == 0)
        return;
    Log rest{log.oid, late, pg::guarded([] { return RegisterSnapshot(GetLatestSnapshot()); })};
    const FoldCounts found = fold_history(rest.oid, rest.leaves, rest.snapshot, Basis::Held);
    counts.new_snapshots += found.new_snapshots;
    counts.updated_snapshots += found.updated_snapshots;
    counts.rows_applied += found.rows_applied;
    pg::guarded([&rest] {
        UnregisterSnapshot(rest.snapshot);
        close_leaves(rest.leaves);
    });
}

void catch_up_with_leaves(const Log& log, FoldCounts& counts) {
    for (int i = 0; i < list_length(log.leaves.in_use.leaves); i++) {
        Relation leaf = nullptr;
        const LeafOpened opened = pg::guarded(
            [&] { return open_leaf(list_nth_oid(log.leaves.in_use.leaves, i), true, &leaf); });
        if (opened != LeafOpened::Opened)
            continue;
        catch_up(leaf, log.snapshot, counts);
        pg::guarded([leaf] { close_leaf(leaf); });
    }
}

// The trigger moves from the table `old`, unless that is InvalidOid.
void move_trigger(Oid table, Oid old) {
    lock_out_writers(table, old);
    // It may have been renamed or changed meanwhile.
    const char* name = pg::guarded([table] {
        table_close(open_log(table), NoLock);
        return quoted_name(table);
    });
    if (OidIsValid(old))
        drop_trigger(old);
    create_trigger(name);
    MANA_AI_FAILPOINT("attach.trigger_created");
}

// First the long part, while writers continue; then the trigger, whose creation blocks them; and
// finally the rows that they wrote in between.
void fold_with_trigger(Oid table, Oid old) {
    Log log = open_with_snapshot(table);
    FoldCounts counts = fold_history(table, log.leaves, log.snapshot, Basis::Held);
    // ALTER TABLE requires the tables to be unused.
    pg::guarded([&log] { close_leaves(log.leaves); });
    move_trigger(table, old);
    fold_new_leaves(log, counts);
    catch_up_with_leaves(log, counts);
    count_fold(counts);
    pg::guarded([&log] { UnregisterSnapshot(log.snapshot); });
    forget_batches();
    remember_folded(table, leaves_now(table));
    pg::guarded([&counts] {
        pg::notice_in_script(psprintf("mana_ai: history folded: %lld rows, %lld snapshots",
                                      static_cast<long long>(counts.rows_applied),
                                      static_cast<long long>(counts.new_snapshots)));
    });
}

// The worker folds the rest: whoever writes to a record now has its snapshot made from the log.
void begin_with_trigger(Oid table, Oid old) {
    move_trigger(table, old);
    begin_batches(table, LogIs::New);
    pg::guarded([] {
        pg::notice_in_script(
            "mana_ai: the worker folds the history in the background; column folding of "
            "mana_ai.status() says how far it is");
    });
}

void attach(Oid table) {
    const Oid attached = pg::guarded([] {
        serialize_folds();
        return attached_relation();
    });
    if (attached == table)
        throw pg::make_error(ERRCODE_DUPLICATE_OBJECT, "mana_ai is attached to this table already");
    const bool moves_up =
        OidIsValid(attached) && pg::guarded([&] { return is_partition_of(attached, table); });
    if (OidIsValid(attached) && !moves_up)
        throw pg::make_error(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                             "mana_ai is attached to another table", {},
                             "Call mana_ai.detach() first.");
    pg::guarded([table] { table_close(open_log(table), AccessShareLock); });
    const Oid old = moves_up ? attached : InvalidOid;
    if (should_fold_in_batches(table, oids_of_leaves(table)))
        begin_with_trigger(table, old);
    else
        fold_with_trigger(table, old);
    pg::wake_worker_at_commit();
}

// A missing or unsuitable table must not make CREATE EXTENSION fail: pg_restore creates the
// extension before the tables.
void attach_at_create() {
    const Oid table = pg::guarded([] {
        const Oid schema = get_namespace_oid("public", true);
        const Oid found =
            OidIsValid(schema) ? get_relname_relid("sync_changes", schema) : InvalidOid;
        if (!OidIsValid(found))
            pg::notice_in_script(
                "mana_ai: table public.sync_changes does not exist; call "
                "mana_ai.attach() with mana-sync's table");
        return found;
    });
    if (!OidIsValid(table))
        return;
    const auto error = pg::in_subtransaction([table] {
        attach(table);
        return true;
    });
    if (!error)
        return;
    if (error->sqlstate != ERRCODE_INVALID_OBJECT_DEFINITION &&
        error->sqlstate != ERRCODE_WRONG_OBJECT_TYPE)
        throw *error;
    pg::guarded([&error] {
        ereport(WARNING, (errmsg("mana_ai: table public.sync_changes was not attached: %s",
                                 error->message.c_str()),
                          error->detail.empty() ? 0 : errdetail("%s", error->detail.c_str()),
                          errhint("Call mana_ai.attach() with mana-sync's table.")));
    });
}

void detach() {
    const Oid attached = pg::guarded([] { return attached_relation(); });
    if (!OidIsValid(attached))
        throw pg::make_error(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                             "mana_ai is not attached to a table");
    drop_trigger(attached);
    run("DELETE FROM mana_ai.folded_log");
    forget_batches();
    remember_folded_leaves({});
    pg::wake_worker_at_commit();
}

}  // namespace

}  // namespace mana_ai

extern "C" {

PG_FUNCTION_INFO_V1(mana_ai_attach);
PGDLLEXPORT Datum mana_ai_attach(PG_FUNCTION_ARGS) {
    using namespace mana_ai;
    return pg::entry_point([fcinfo] {
        attach(PG_GETARG_OID(0));
        return Datum{0};
    });
}

// The last step of CREATE EXTENSION.
PG_FUNCTION_INFO_V1(mana_ai_attach_at_create);
PGDLLEXPORT Datum mana_ai_attach_at_create(PG_FUNCTION_ARGS) {
    using namespace mana_ai;
    (void)fcinfo;
    return pg::entry_point([] {
        attach_at_create();
        return Datum{0};
    });
}

PG_FUNCTION_INFO_V1(mana_ai_detach);
PGDLLEXPORT Datum mana_ai_detach(PG_FUNCTION_ARGS) {
    using namespace mana_ai;
    (void)fcinfo;
    return pg::entry_point([] {
        detach();
        return Datum{0};
    });
}

PG_FUNCTION_INFO_V1(mana_ai_attached_table);
PGDLLEXPORT Datum mana_ai_attached_table(PG_FUNCTION_ARGS) {
    using namespace mana_ai;
    const Oid attached =
        pg::entry_point([] { return pg::guarded([] { return attached_relation(); }); });
    if (!OidIsValid(attached))
        PG_RETURN_NULL();
    PG_RETURN_OID(attached);
}

}  // extern "C"
