#include "mana_ai/extension/process/background_worker.hpp"

#include "mana_ai/extension/process/processes.hpp"

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

}  // namespace mana_ai
