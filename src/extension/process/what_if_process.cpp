#include "mana_ai/extension/process/what_if_process.hpp"

#include <cstring>
#include <string>
#include <vector>

#include "mana_ai/core/text/wipe.hpp"
#include "mana_ai/extension/process/background_worker.hpp"
#include "mana_ai/extension/process/processes.hpp"
#include "mana_ai/extension/process/what_if_server.hpp"
#include "mana_ai/extension/process/worker_session.hpp"
#include "mana_ai/pg/compat.hpp"
#include "mana_ai/pg/guard.hpp"
#include "mana_ai/pg/scratch_memory.hpp"

extern "C" {
#include "storage/dsm.h"
#include "storage/dsm_impl.h"
#include "storage/ipc.h"
#include "storage/shm_mq.h"
}

namespace mana_ai {

namespace {

constexpr size_t kQueue = size_t{64} << 10;

// At the start of the segment; the queues follow.
struct Head {
    Oid database;
};

char* question_place(dsm_segment* segment) {
    return static_cast<char*>(dsm_segment_address(segment)) + MAXALIGN(sizeof(Head));
}
char* answer_place(dsm_segment* segment) {
    return question_place(segment) + kQueue;
}

bool send(shm_mq_handle* queue, const std::string& text) {
    return pg::guarded([&] {
               return pg::compat::send_message(queue, text.size(), text.data(), false);
           }) == SHM_MQ_SUCCESS;
}

// False: the other side is gone.
bool receive(shm_mq_handle* queue, std::string& text) {
    Size size = 0;
    void* data = nullptr;
    if (pg::guarded([&] { return shm_mq_receive(queue, &size, &data, false); }) != SHM_MQ_SUCCESS)
        return false;
    text.assign(static_cast<const char*>(data), size);
    return true;
}

// Processes that run for this one. proc_exit() runs no destructor, and a process that waits for a
// model does not notice the end of its queues.
std::vector<BackgroundWorkerHandle*>& running() {
    static std::vector<BackgroundWorkerHandle*> handles;
    return handles;
}

extern "C" {
static void terminate_running_what_ifs(int, Datum) {
    for (BackgroundWorkerHandle* handle : running())
        TerminateBackgroundWorker(handle);
}
}

}  // namespace

struct WhatIfProcess::Pipe {
    ~Pipe() {
        if (handle != nullptr) {
            TerminateBackgroundWorker(handle);
            std::erase(running(), handle);
            pfree(handle);
        }
        for (shm_mq_handle* queue : {questions, answers})
            if (queue != nullptr)
                shm_mq_detach(queue);
        if (segment != nullptr)
            dsm_detach(segment);
    }

    dsm_segment* segment = nullptr;
    BackgroundWorkerHandle* handle = nullptr;
    shm_mq_handle* questions = nullptr;
    shm_mq_handle* answers = nullptr;
};

WhatIfProcess::WhatIfProcess(const char* function) : function_(function) {
    check_may_start(function);
    check_safe_mode(MyDatabaseId);
    // Its segments are files, and prompts must not be in any.
    if (dynamic_shared_memory_type == DSM_IMPL_MMAP)
        throw pg::make_error(
            ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            std::string("cannot execute ") + function + " with dynamic_shared_memory_type = mmap",
            "Prompts would be written to files of the data directory.");
    static const bool registered =
        (pg::guarded([] { before_shmem_exit(terminate_running_what_ifs, 0); }), true);
    (void)registered;
    running().reserve(running().size() + 1);
    pipe_ = std::make_unique<Pipe>();
    Pipe* const p = pipe_.get();
    pg::guarded([p] {
        p->segment = dsm_create(MAXALIGN(sizeof(Head)) + 2 * kQueue, 0);
        static_cast<Head*>(dsm_segment_address(p->segment))->database = MyDatabaseId;
        shm_mq* questions = shm_mq_create(question_place(p->segment), kQueue);
        shm_mq* answers = shm_mq_create(answer_place(p->segment), kQueue);
        shm_mq_set_sender(questions, MyProc);
        shm_mq_set_receiver(answers, MyProc);
        BackgroundWorker worker =
            background_worker(kWhatIfMain, "mana_ai what_if", "mana_ai what_if");
        worker.bgw_main_arg = UInt32GetDatum(dsm_segment_handle(p->segment));
        p->handle = start_background_worker(worker);
        if (p->handle == nullptr)
            ereport(ERROR, (errcode(ERRCODE_INSUFFICIENT_RESOURCES),
                            errmsg("could not start a background worker for the model call"),
                            errdetail("All slots for background workers are in use."),
                            errhint("You might need to increase max_worker_processes.")));
        running().push_back(p->handle);
        const MemoryContext previous = MemoryContextSwitchTo(TopMemoryContext);
        p->questions = shm_mq_attach(questions, p->segment, p->handle);
        p->answers = shm_mq_attach(answers, p->segment, p->handle);
        MemoryContextSwitchTo(previous);
    });
}

WhatIfProcess::~WhatIfProcess() = default;

core::Json WhatIfProcess::ask(const core::Json& question) {
    std::string text = core::dump_json(question);
    const core::WipeAtEnd wipe_text(text);
    std::optional<core::Json> answer;
    if (send(pipe_->questions, text) && receive(pipe_->answers, text))
        answer = core::parse_json(text);
    if (!answer || !answer->is_object())
        throw pg::make_error(
            ERRCODE_INTERNAL_ERROR,
            std::string("the background worker of ") + function_ + " ended before it was finished",
            {}, "The server's log says why.");
    const auto error = answer->find("error");
    if (error != answer->end())
        throw pg::make_error(error->value("sqlstate", ERRCODE_INTERNAL_ERROR),
                             error->value("message", std::string()),
                             error->value("detail", std::string()),
                             error->value("hint", std::string()));
    return std::move(*answer);
}

namespace {

core::Json error_of(const pg::PgError& error) {
    return {{"error",
             {{"sqlstate", error.sqlstate},
              {"message", error.message},
              {"detail", error.detail},
              {"hint", error.hint}}}};
}

// Ends when the caller does.
void serve(shm_mq_handle* questions, shm_mq_handle* answers) {
    WhatIfServer server;
    std::string text;
    const core::WipeAtEnd wipe_text(text);
    while (receive(questions, text)) {
        core::Json answer;
        const pg::ScratchMemory scratch("mana_ai question");
        try {
            answer = server.answer(core::parse_json(text).value());
        } catch (const pg::PgError& error) {
            if (error.is_interrupt())
                throw;
            answer = error_of(error);
        }
        core::wipe(text);
        text = core::dump_json(answer);
        if (!send(answers, text))
            return;
    }
}

}  // namespace

}  // namespace mana_ai

extern "C" PGDLLEXPORT void mana_ai_what_if_main(Datum segment_handle) {
    using namespace mana_ai;
    pg::entry_point([segment_handle] {
        dsm_segment* segment = attach_segment_of_caller(DatumGetUInt32(segment_handle));
        auto* questions = reinterpret_cast<shm_mq*>(question_place(segment));
        auto* answers = reinterpret_cast<shm_mq*>(answer_place(segment));
        shm_mq_handle* from = nullptr;
        shm_mq_handle* to = nullptr;
        pg::guarded([&] {
            const MemoryContext previous = MemoryContextSwitchTo(TopMemoryContext);
            shm_mq_set_receiver(questions, MyProc);
            shm_mq_set_sender(answers, MyProc);
            from = shm_mq_attach(questions, segment, nullptr);
            to = shm_mq_attach(answers, segment, nullptr);
            MemoryContextSwitchTo(previous);
        });
        connect_worker(static_cast<Head*>(dsm_segment_address(segment))->database,
                       "mana_ai what_if", pg::crash_watch::Code::Tick);
        // Without the extension the caller sees the end of the queues.
        if (!act_as_extension_owner())
            return;
        try {
            serve(from, to);
        } catch (const pg::PgError& error) {
            // The caller is gone or has been canceled; what was paid for is recorded.
            if (!error.is_interrupt())
                throw;
        }
    });
    proc_exit(0);
}
