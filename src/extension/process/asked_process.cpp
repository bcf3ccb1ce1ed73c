#include "mana_ai/extension/process/asked_process.hpp"

#include <vector>

#include "mana_ai/extension/process/background_worker.hpp"
#include "mana_ai/extension/process/worker_session.hpp"
#include "mana_ai/pg/compat.hpp"
#include "mana_ai/pg/guard.hpp"

extern "C" {
#include "storage/ipc.h"
#include "storage/proc.h"
#include "utils/memutils.h"
}

namespace mana_ai {

namespace {

constexpr size_t kQueue = size_t{64} << 10;

// At the start of the segment; the queues follow.
struct Head {
    Oid database;
};

Head* head_of(dsm_segment* segment) {
    return static_cast<Head*>(dsm_segment_address(segment));
}
char* question_place(dsm_segment* segment) {
    return static_cast<char*>(dsm_segment_address(segment)) + MAXALIGN(sizeof(Head));
}
char* answer_place(dsm_segment* segment) {
    return question_place(segment) + kQueue;
}

bool send(shm_mq_handle* queue, const std::string& text, bool nowait) {
    return pg::guarded([&] {
               return pg::compat::send_message(queue, text.size(), text.data(), nowait);
           }) == SHM_MQ_SUCCESS;
}

shm_mq_result receive(shm_mq_handle* queue, std::string& text, bool nowait) {
    Size size = 0;
    void* data = nullptr;
    const shm_mq_result result =
        pg::guarded([&] { return shm_mq_receive(queue, &size, &data, nowait); });
    if (result == SHM_MQ_SUCCESS)
        text.assign(static_cast<const char*>(data), size);
    return result;
}

// Processes that run for this one. proc_exit() runs no destructor, and a process that is busy does
// not notice the end of its queues.
std::vector<BackgroundWorkerHandle*>& running() {
    static std::vector<BackgroundWorkerHandle*> handles;
    return handles;
}

extern "C" {
static void terminate_asked_processes(int, Datum) {
    for (BackgroundWorkerHandle* handle : running())
        TerminateBackgroundWorker(handle);
}
}

}  // namespace

std::unique_ptr<AskedProcess> AskedProcess::start(const char* entry_point, const char* name,
                                                  Oid database) {
    static const bool registered =
        (pg::guarded([] { before_shmem_exit(terminate_asked_processes, 0); }), true);
    (void)registered;
    running().reserve(running().size() + 1);
    std::unique_ptr<AskedProcess> process(new AskedProcess);
    AskedProcess* const p = process.get();
    const bool started = pg::guarded([=] {
        p->segment_ = dsm_create(MAXALIGN(sizeof(Head)) + 2 * kQueue, 0);
        head_of(p->segment_)->database = database;
        shm_mq* questions = shm_mq_create(question_place(p->segment_), kQueue);
        shm_mq* answers = shm_mq_create(answer_place(p->segment_), kQueue);
        shm_mq_set_sender(questions, MyProc);
        shm_mq_set_receiver(answers, MyProc);
        BackgroundWorker worker = background_worker(entry_point, name, name);
        worker.bgw_main_arg = UInt32GetDatum(dsm_segment_handle(p->segment_));
        p->handle_ = start_background_worker(worker);
        if (p->handle_ == nullptr)
            return false;
        running().push_back(p->handle_);
        const MemoryContext previous = MemoryContextSwitchTo(TopMemoryContext);
        p->questions_ = shm_mq_attach(questions, p->segment_, p->handle_);
        p->answers_ = shm_mq_attach(answers, p->segment_, p->handle_);
        MemoryContextSwitchTo(previous);
        return true;
    });
    return started ? std::move(process) : nullptr;
}

AskedProcess::~AskedProcess() {
    if (handle_ != nullptr) {
        TerminateBackgroundWorker(handle_);
        std::erase(running(), handle_);
        pfree(handle_);
    }
    for (shm_mq_handle* queue : {questions_, answers_})
        if (queue != nullptr)
            shm_mq_detach(queue);
    if (segment_ != nullptr)
        dsm_detach(segment_);
}

bool AskedProcess::ask(const std::string& question, bool nowait) {
    return send(questions_, question, nowait);
}

bool AskedProcess::wait_for_answer(std::string& answer) {
    return receive(answers_, answer, false) == SHM_MQ_SUCCESS;
}

shm_mq_result AskedProcess::look_for_answer(std::string& answer) {
    return receive(answers_, answer, true);
}

bool AskedProcess::is_running() {
    pid_t pid = 0;
    return GetBackgroundWorkerPid(handle_, &pid) == BGWH_STARTED;
}

Asker::Asker(Datum segment_handle)
    : segment_(attach_segment_of_caller(DatumGetUInt32(segment_handle))) {
    pg::guarded([this] {
        auto* questions = reinterpret_cast<shm_mq*>(question_place(segment_));
        auto* answers = reinterpret_cast<shm_mq*>(answer_place(segment_));
        const MemoryContext previous = MemoryContextSwitchTo(TopMemoryContext);
        shm_mq_set_receiver(questions, MyProc);
        shm_mq_set_sender(answers, MyProc);
        questions_ = shm_mq_attach(questions, segment_, nullptr);
        answers_ = shm_mq_attach(answers, segment_, nullptr);
        MemoryContextSwitchTo(previous);
    });
}

Oid Asker::database() const {
    return head_of(segment_)->database;
}

bool Asker::next_question(std::string& question) {
    return receive(questions_, question, false) == SHM_MQ_SUCCESS;
}

bool Asker::answer(const std::string& answer) {
    return send(answers_, answer, false);
}

}  // namespace mana_ai
