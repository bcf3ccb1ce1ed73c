#include "mana_ai/pg/transaction.hpp"

#include "mana_ai/pg/crash_watch.hpp"
#include "mana_ai/pg/guard.hpp"
#include "mana_ai/pg/metrics.hpp"
#include "mana_ai/pg/termination.hpp"
#include "mana_ai/pg/time.hpp"

extern "C" {
#include "access/xact.h"
#include "pgstat.h"
#include "storage/ipc.h"
#include "utils/snapmgr.h"
}

namespace mana_ai::pg {

Transaction::Transaction(const char* activity)
    : outer_(CurrentMemoryContext), started_us_(monotonic_now()) {
    if (termination_requested())
        throw make_error(ERRCODE_ADMIN_SHUTDOWN, "termination was requested");
    crash_watch::note_activity(activity);
    guarded([activity] {
        SetCurrentStatementStartTimestamp();
        StartTransactionCommand();
        pgstat_report_activity(STATE_RUNNING, activity);
        PushActiveSnapshot(GetTransactionSnapshot());
    });
}

Transaction::~Transaction() {
    if (open_) {
        try {
            guarded([] { AbortCurrentTransaction(); });
        } catch (...) {
            // A process that cannot even roll back has no business going on; the postmaster
            // starts it anew.
            proc_exit(1);
        }
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
        PopActiveSnapshot();
        CommitTransactionCommand();
    });
    open_ = false;
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

RoleScope::RoleScope(Oid role) {
    GetUserIdAndSecContext(&previous_role_, &previous_context_);
    SetUserIdAndSecContext(
        role, previous_context_ | SECURITY_LOCAL_USERID_CHANGE | SECURITY_RESTRICTED_OPERATION);
}

RoleScope::~RoleScope() {
    SetUserIdAndSecContext(previous_role_, previous_context_);
}

}  // namespace mana_ai::pg
