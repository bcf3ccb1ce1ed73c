#include "mana_ai/extension/process/tick_process.hpp"

#include <cstring>

#include "mana_ai/extension/process/background_worker.hpp"
#include "mana_ai/extension/process/processes.hpp"
#include "mana_ai/pg/crash_watch.hpp"
#include "mana_ai/pg/guard.hpp"

extern "C" {
#include "postmaster/bgworker.h"
#include "storage/dsm.h"
#include "storage/ipc.h"
}

namespace mana_ai {

namespace {

extern "C" {
static void terminate_process(int, Datum handle) {
    TerminateBackgroundWorker(reinterpret_cast<BackgroundWorkerHandle*>(DatumGetPointer(handle)));
}
}

// Terminates the tick's process if this one is terminated while it waits.
class EndWithUs {
 public:
    explicit EndWithUs(void* handle) : handle_(PointerGetDatum(handle)) {
        pg::guarded([this] { before_shmem_exit(terminate_process, handle_); });
    }
    ~EndWithUs() { cancel_before_shmem_exit(terminate_process, handle_); }
    EndWithUs(const EndWithUs&) = delete;
    EndWithUs& operator=(const EndWithUs&) = delete;

 private:
    Datum handle_;
};

BackgroundWorkerHandle* as_handle(void* handle) {
    return static_cast<BackgroundWorkerHandle*>(handle);
}

BackgroundWorkerHandle* start_process(dsm_segment* segment) {
    return pg::guarded([segment]() -> BackgroundWorkerHandle* {
        BackgroundWorker worker =
            background_worker(kHandTickMain, "mana_ai tick", "mana_ai manual tick");
        worker.bgw_main_arg = UInt32GetDatum(dsm_segment_handle(segment));
        BackgroundWorkerHandle* handle = start_background_worker(worker);
        if (handle == nullptr)
            ereport(ERROR, (errcode(ERRCODE_INSUFFICIENT_RESOURCES),
                            errmsg("could not start a background worker for the tick"),
                            errdetail("All slots for background workers are in use."),
                            errhint("You might need to increase max_worker_processes.")));
        return handle;
    });
}

}  // namespace

char* TickRequest::ids() {
    return reinterpret_cast<char*>(this) + MAXALIGN(sizeof(TickRequest));
}

size_t TickRequest::size(size_t ids) {
    return MAXALIGN(sizeof(TickRequest)) + ids;
}

TickProcess::TickProcess(uint32_t database) : TickProcess(database, false, {}, {}) {}

TickProcess::TickProcess(uint32_t database, const std::string& user_id,
                         const std::string& mission_id)
    : TickProcess(database, true, user_id, mission_id) {}

TickProcess::TickProcess(uint32_t database, bool one_mission, const std::string& user_id,
                         const std::string& mission_id) {
    check_safe_mode(database);
    const size_t size = TickRequest::size(user_id.size() + mission_id.size());
    auto* segment = pg::guarded([size] { return dsm_create(size, 0); });
    segment_ = segment;
    request_ = static_cast<TickRequest*>(dsm_segment_address(segment));
    memset(static_cast<void*>(request_), 0, sizeof(TickRequest));
    request_->database = database;
    request_->one_mission = one_mission;
    request_->user_id_length = static_cast<uint32_t>(user_id.size());
    request_->mission_id_length = static_cast<uint32_t>(mission_id.size());
    memcpy(request_->ids(), user_id.data(), user_id.size());
    memcpy(request_->ids() + user_id.size(), mission_id.data(), mission_id.size());
    try {
        handle_ = start_process(segment);
    } catch (...) {
        dsm_detach(segment);
        throw;
    }
}

TickProcess::~TickProcess() {
    if (!ended_)
        TerminateBackgroundWorker(as_handle(handle_));
    pfree(handle_);
    dsm_detach(static_cast<dsm_segment*>(segment_));
}

void TickProcess::wait() {
    const EndWithUs guard(handle_);
    const BgwHandleStatus status =
        pg::guarded([this] { return WaitForBackgroundWorkerShutdown(as_handle(handle_)); });
    ended_ = true;
    if (status == BGWH_POSTMASTER_DIED)
        throw pg::make_error(ERRCODE_ADMIN_SHUTDOWN,
                             "the server ended before the tick was finished");
}

bool TickProcess::ended() {
    pid_t pid = 0;
    ended_ = ended_ || GetBackgroundWorkerPid(as_handle(handle_), &pid) == BGWH_STOPPED;
    return ended_;
}

const TickAnswer& TickProcess::answer(const char* function) const {
    const TickAnswer& answer = request_->answer;
    if (!answer.complete)
        throw pg::make_error(
            ERRCODE_INTERNAL_ERROR,
            std::string("the background worker of ") + function + " ended before it was finished",
            {}, "The server's log says why.");
    if (answer.sqlstate != 0)
        throw pg::make_error(answer.sqlstate, answer.error_message);
    return answer;
}

}  // namespace mana_ai
