#include "mana_ai/extension/process/static_process.hpp"

#include "mana_ai/extension/process/processes.hpp"
#include "mana_ai/pg/guard.hpp"

extern "C" {
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
}

namespace mana_ai {

void register_static_process(const char* entry_point, const char* name, int restart_seconds) {
    BackgroundWorker worker{};
    worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
    worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
    worker.bgw_restart_time = restart_seconds;
    strlcpy(worker.bgw_library_name, kLibraryName, sizeof(worker.bgw_library_name));
    strlcpy(worker.bgw_function_name, entry_point, sizeof(worker.bgw_function_name));
    strlcpy(worker.bgw_name, name, sizeof(worker.bgw_name));
    strlcpy(worker.bgw_type, name, sizeof(worker.bgw_type));
    RegisterBackgroundWorker(&worker);
}

void begin_static_process(const char* name, pg::crash_watch::Code code) {
    pg::crash_watch::begin_process(code, InvalidOid);
    pg::guarded([name] {
        pqsignal(SIGHUP, SignalHandlerForConfigReload);
        pqsignal(SIGTERM, SignalHandlerForShutdownRequest);
        // There is no query to cancel, and a cancel would end the process.
        pqsignal(SIGINT, SIG_IGN);
        BackgroundWorkerUnblockSignals();
        BackgroundWorkerInitializeConnection(nullptr, nullptr, 0);
        pgstat_report_appname(name);
    });
}

}  // namespace mana_ai
