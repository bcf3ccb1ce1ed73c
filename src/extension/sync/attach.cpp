// Creating and dropping the trigger on mana-sync's table (docs/contract/interface.md, attach()).

#include <string>

#include "mana_ai/extension/sync/backfill.hpp"
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
#include "storage/lmgr.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"
}

namespace mana_ai {

namespace {

constexpr char kTrigger[] = "mana_ai_fold";

struct Log {
    Relation relation;
    Snapshot snapshot;
    const char* name;  // quoted, in the caller's memory context
};

Log open_with_snapshot(Oid oid) {
    return pg::guarded([oid] {
        Relation relation = open_log(oid);
        CommandCounterIncrement();
        return Log{relation, RegisterSnapshot(GetLatestSnapshot()),
                   quote_qualified_identifier(get_namespace_name(RelationGetNamespace(relation)),
                                              RelationGetRelationName(relation))};
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

// CREATE TRIGGER waits for the transactions that are writing, and all new writers wait behind it.
// So the lock is first requested without waiting, as long as that is likely to succeed soon.
void lock_out_writers(Relation relation) {
    constexpr int kPatienceMs = 10'000;
    constexpr int kPauseMs = 10;
    pg::guarded([relation] {
        for (int waited = 0; waited < kPatienceMs; waited += kPauseMs) {
            if (ConditionalLockRelation(relation, ShareRowExclusiveLock))
                return;
            pg::sleep_and_check_interrupts(kPauseMs);
        }
        LockRelation(relation, ShareRowExclusiveLock);
    });
}

void attach(Oid table) {
    const Oid attached = pg::guarded([] {
        serialize_folds();
        return attached_relation();
    });
    if (attached == table)
        throw pg::make_error(ERRCODE_DUPLICATE_OBJECT, "mana_ai is attached to this table already");
    if (OidIsValid(attached))
        throw pg::make_error(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                             "mana_ai is attached to another table", {},
                             "Call mana_ai.detach() first.");
    Log log = open_with_snapshot(table);
    // First the long part, while writers continue; then the trigger, whose creation blocks them;
    // and finally the rows that they wrote in between.
    FoldCounts counts = fold_history(log.relation, log.snapshot, Basis::Held);
    pg::guarded(
        [&log] { table_close(log.relation, NoLock); });  // ALTER TABLE requires it to be unused
    lock_out_writers(log.relation);
    create_trigger(log.name);
    MANA_AI_FAILPOINT("attach.trigger_created");
    log.relation = pg::guarded([table] { return open_log(table); });
    catch_up(log.relation, log.snapshot, counts);
    count_fold(counts);
    pg::guarded([&log] {
        UnregisterSnapshot(log.snapshot);
        table_close(log.relation, NoLock);
    });
    remember_folded(table);
    pg::wake_worker_at_commit();
    pg::guarded([&counts] {
        pg::notice_in_script(psprintf("mana_ai: history folded: %lld rows, %lld snapshots",
                                      static_cast<long long>(counts.rows_applied),
                                      static_cast<long long>(counts.new_snapshots)));
    });
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
    const char* table = pg::guarded([attached] {
        return quote_qualified_identifier(get_namespace_name(get_rel_namespace(attached)),
                                          get_rel_name(attached));
    });
    run("DROP TRIGGER " + std::string(kTrigger) + " ON " + table);
    run("DELETE FROM mana_ai.folded_log");
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
