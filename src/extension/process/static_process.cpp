#include "mana_ai/extension/process/static_process.hpp"

#include "mana_ai/extension/process/background_worker.hpp"
#include "mana_ai/extension/process/processes.hpp"
#include "mana_ai/pg/guard.hpp"

extern "C" {
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "utils/guc.h"
}

namespace mana_ai {

void register_static_process(const char* entry_point, const char* name, int restart_seconds) {
    BackgroundWorker worker = background_worker(entry_point, name, name);
    worker.bgw_restart_time = restart_seconds;
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

void handle_static_signals() {
    // Not 0: to be restarted, unless the server shuts down.
    if (ShutdownRequestPending)
        proc_exit(1);
    pg::guarded([] {
        CHECK_FOR_INTERRUPTS();
        if (ConfigReloadPending) {
            ConfigReloadPending = false;
            ProcessConfigFile(PGC_SIGHUP);
        }
    });
}

}  // namespace mana_ai
