#include "mana_ai/extension/process/static_process.hpp"

#include "mana_ai/extension/process/background_worker.hpp"
#include "mana_ai/extension/process/processes.hpp"
#include "mana_ai/pg/guard.hpp"

extern "C" {
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
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

}  // namespace mana_ai
