// A background process that answers questions of the process that has started it, one after the
// other, through two queues in shared memory. What they say is never stored.
#pragma once

#include <memory>
#include <string>

#include "mana_ai/pg/postgres.hpp"

extern "C" {
#include "postmaster/bgworker.h"
#include "storage/dsm.h"
#include "storage/shm_mq.h"
}

namespace mana_ai {

// The asking side.
class AskedProcess {
 public:
    // Starts a process that runs `entry_point` for a database, and is called `name`. Null: all
    // slots for background workers are in use. Throws PgError.
    static std::unique_ptr<AskedProcess> start(const char* entry_point, const char* name,
                                               Oid database);
    // Ends the process, and what it is doing. So does the end of this process.
    ~AskedProcess();
    AskedProcess(const AskedProcess&) = delete;
    AskedProcess& operator=(const AskedProcess&) = delete;

    // False: the process is gone, or with `nowait` the queue is full. Throws PgError.
    bool ask(const std::string& question, bool nowait);
    // Waits for the answer. False: the process is gone. Throws PgError.
    bool wait_for_answer(std::string& answer);
    // The answer if it is there. SHM_MQ_WOULD_BLOCK: not yet. Throws PgError.
    shm_mq_result look_for_answer(std::string& answer);
    // Whether it has started and not ended.
    bool is_running();

 private:
    AskedProcess() = default;

    dsm_segment* segment_ = nullptr;
    BackgroundWorkerHandle* handle_ = nullptr;
    shm_mq_handle* questions_ = nullptr;
    shm_mq_handle* answers_ = nullptr;
};

// The answering side.
class Asker {
 public:
    // `segment_handle` is the argument of the process's entry point. Throws PgError.
    explicit Asker(Datum segment_handle);

    Oid database() const;

    // Waits for the next question. False: the asking process is gone. Throws PgError.
    bool next_question(std::string& question);
    // False: the asking process is gone. Throws PgError.
    bool answer(const std::string& answer);

 private:
    dsm_segment* segment_;
    shm_mq_handle* questions_ = nullptr;
    shm_mq_handle* answers_ = nullptr;
};

}  // namespace mana_ai
