#include "mana_ai/extension/process/background_worker.hpp"

#include <string>

#include "mana_ai/extension/process/processes.hpp"
#include "mana_ai/pg/crash_watch.hpp"
#include "mana_ai/pg/error.hpp"

extern "C" {
#include "access/xact.h"
#include "access/xlog.h"
}

namespace mana_ai {

BackgroundWorker background_worker(const char* entry_point, const char* type, const char* name) {
    BackgroundWorker worker{};
    worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
    worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
    worker.bgw_restart_time = BGW_NEVER_RESTART;
    strlcpy(worker.bgw_library_name, kLibraryName, sizeof(worker.bgw_library_name));
    strlcpy(worker.bgw_function_name, entry_point, sizeof(worker.bgw_function_name));
    strlcpy(worker.bgw_type, type, sizeof(worker.bgw_type));
    strlcpy(worker.bgw_name, name, sizeof(worker.bgw_name));
    return worker;
}

BackgroundWorkerHandle* start_background_worker(BackgroundWorker& worker) {
    worker.bgw_notify_pid = MyProcPid;
    BackgroundWorkerHandle* handle = nullptr;
    const MemoryContext previous = MemoryContextSwitchTo(TopMemoryContext);
    const bool registered = RegisterDynamicBackgroundWorker(&worker, &handle);
    MemoryContextSwitchTo(previous);
    return registered ? handle : nullptr;
}

void check_may_start(const char* function) {
    if (RecoveryInProgress())
        throw pg::make_error(ERRCODE_READ_ONLY_SQL_TRANSACTION,
                             std::string("cannot execute ") + function + " during recovery", {},
                             "Run it on the primary server.");
    if (XactReadOnly)
        throw pg::make_error(
            ERRCODE_READ_ONLY_SQL_TRANSACTION,
            std::string("cannot execute ") + function + " in a read-only transaction", {},
            "Begin the transaction with READ WRITE, or set default_transaction_read_only to off.");
}

void check_safe_mode(Oid database) {
    if (const auto safe = pg::crash_watch::safe_mode(database))
        throw pg::make_error(
            ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, "mana_ai is in safe mode in this database",
            "Processes of mana_ai crashed: " + pg::crash_watch::describe(*safe) + ".",
            "When the cause is gone, call mana_ai.resume_after_crash().");
}

}  // namespace mana_ai
