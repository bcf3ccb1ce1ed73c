#include "mana_ai/pg/transaction.hpp"

#include <optional>
#include <string>

#include "mana_ai/pg/crash_watch.hpp"
#include "mana_ai/pg/guard.hpp"
#include "mana_ai/pg/metrics.hpp"
#include "mana_ai/pg/session_lock.hpp"
#include "mana_ai/pg/termination.hpp"
#include "mana_ai/pg/time.hpp"

extern "C" {
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/namespace.h"
#include "commands/trigger.h"
#include "pgstat.h"
#include "storage/ipc.h"
#include "storage/proc.h"
#include "utils/guc.h"
#include "utils/rls.h"
#include "utils/snapmgr.h"
}

namespace mana_ai::pg {

namespace {

constexpr char kSafeSearchPath[] = "pg_catalog, pg_temp";

// Only variables of PostgreSQL, which are cheap to read.
struct Settings {
    std::string search_path;
    Oid role = InvalidOid;
    int security_context = 0;
    int statement_timeout = 0;
    int lock_timeout = 0;
    int replication_role = 0;
    int isolation = 0;
    bool read_only = false;
    bool row_security = false;
};

std::optional<Settings> required;

Settings current_settings() {
    Settings now;
    now.search_path = namespace_search_path;
    GetUserIdAndSecContext(&now.role, &now.security_context);
    now.statement_timeout = StatementTimeout;
    now.lock_timeout = LockTimeout;
    now.replication_role = SessionReplicationRole;
    now.isolation = DefaultXactIsoLevel;
    now.read_only = DefaultXactReadOnly;
    now.row_security = row_security;
    return now;
}

// The first one that differs; null: none does.
const char* changed_setting(const Settings& wanted) {
    Oid role = InvalidOid;
    int security_context = 0;
    GetUserIdAndSecContext(&role, &security_context);
    if (role != wanted.role || security_context != wanted.security_context)
        return "role";
    if (wanted.search_path != namespace_search_path)
        return "search_path";
    if (DefaultXactReadOnly != wanted.read_only)
        return "default_transaction_read_only";
    if (XactReadOnly && !wanted.read_only && !RecoveryInProgress())
        return "transaction_read_only";
    if (DefaultXactIsoLevel != wanted.isolation || XactIsoLevel != wanted.isolation)
        return "default_transaction_isolation";
    if (StatementTimeout != wanted.statement_timeout)
        return "statement_timeout";
    if (LockTimeout != wanted.lock_timeout)
        return "lock_timeout";
    if (row_security != wanted.row_security)
        return "row_security";
    if (SessionReplicationRole != wanted.replication_role)
        return "session_replication_role";
    return nullptr;
}

void check_settings() {
    const char* changed = required ? changed_setting(*required) : nullptr;
    if (changed == nullptr)
        return;
    guarded([changed] {
        ereport(FATAL,
                (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
                 errmsg("mana_ai: setting \"%s\" of this process has been changed from within",
                        changed),
                 errdetail("The process ends, so that nothing runs under a setting that is not its "
                           "own. A new one begins with the settings that it should have."),
                 errhint("Look for triggers and functions on mana_ai's own tables.")));
    });
}

// A transaction's locks end with it; the remaining ones were taken for the session.
void release_foreign_locks() {
    if (required)
        release_foreign_session_locks();
}

// Including subtransactions: foreign code may have left one open when it failed, and
// AbortCurrentTransaction() would end only that.
void roll_back() {
    try {
        guarded([] { AbortOutOfAnyTransaction(); });
    } catch (...) {
        // A process that cannot roll back must not continue; the postmaster starts a new one.
        proc_exit(1);
    }
}

}  // namespace

void require_settings() {
    required = current_settings();
}

Transaction::Transaction(const char* activity)
    : outer_(CurrentMemoryContext), started_us_(monotonic_now()) {
    if (termination_requested())
        throw make_error(ERRCODE_ADMIN_SHUTDOWN, "termination was requested");
    crash_watch::note_activity(activity);
    try {
        guarded([activity] {
            SetCurrentStatementStartTimestamp();
            StartTransactionCommand();
            pgstat_report_activity(STATE_RUNNING, activity);
            check_settings();
            PushActiveSnapshot(GetTransactionSnapshot());
        });
    } catch (...) {
        roll_back();
        MemoryContextSwitchTo(outer_);
        throw;
    }
}

Transaction::~Transaction() {
    if (open_) {
        roll_back();
        release_foreign_locks();
        guarded([] { pgstat_report_activity(STATE_IDLE, nullptr); });
    }
    crash_watch::note_activity("mana_ai: between transactions");
    MemoryContextSwitchTo(outer_);
    metrics::raise_gauge(core::Metric::LongestTransaction,
                         static_cast<double>(monotonic_now() - started_us_) / 1e6);
}

void Transaction::commit() {
    commit_without_standby_if_terminating();
    guarded([] {
        // It would seem to commit without committing anything.
        if (IsSubTransaction())
            ereport(ERROR, (errcode(ERRCODE_INVALID_TRANSACTION_TERMINATION),
                            errmsg("mana_ai: a subtransaction was left open")));
        PopActiveSnapshot();
        CommitTransactionCommand();
    });
    open_ = false;
    release_foreign_locks();
    guarded([] {
        pgstat_report_stat(false);
        pgstat_report_activity(STATE_IDLE, nullptr);
    });
}

void Transaction::refresh_snapshot() {
    guarded([] {
        CommandCounterIncrement();
        PopActiveSnapshot();
        PushActiveSnapshot(GetTransactionSnapshot());
    });
}

RoleScope::RoleScope(Oid role)
    : settings_(NewGUCNestLevel()), transaction_level_(GetCurrentTransactionNestLevel()) {
    GetUserIdAndSecContext(&previous_role_, &previous_context_);
    // An error in here ends the transaction, and with it the new level.
    guarded([] { set_for_scope("search_path", kSafeSearchPath); });
    SetUserIdAndSecContext(
        role, previous_context_ | SECURITY_LOCAL_USERID_CHANGE | SECURITY_RESTRICTED_OPERATION);
}

RoleScope::~RoleScope() {
    // Foreign code may have failed inside its own subtransaction, whose later rollback undoes the
    // inner levels; ours is undone with the outer one.
    if (GetCurrentTransactionNestLevel() == transaction_level_)
        AtEOXact_GUC(false, settings_);
    SetUserIdAndSecContext(previous_role_, previous_context_);
}

void set_for_scope(const char* name, const char* value) {
    set_config_option(name, value, PGC_SUSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
}

void plan_as_usual_in_scope() {
    set_for_scope("enable_seqscan", "on");
    set_for_scope("enable_hashjoin", "on");
    set_for_scope("enable_mergejoin", "on");
    set_for_scope("enable_bitmapscan", "on");
    set_for_scope("plan_cache_mode", "auto");
}

}  // namespace mana_ai::pg
