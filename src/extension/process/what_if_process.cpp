#include "mana_ai/extension/process/what_if_process.hpp"

#include <string>

#include "mana_ai/core/text/wipe.hpp"
#include "mana_ai/extension/process/asked_process.hpp"
#include "mana_ai/extension/process/background_worker.hpp"
#include "mana_ai/extension/process/processes.hpp"
#include "mana_ai/extension/process/what_if_server.hpp"
#include "mana_ai/extension/process/worker_session.hpp"
#include "mana_ai/pg/guard.hpp"
#include "mana_ai/pg/scratch_memory.hpp"

extern "C" {
#include "storage/dsm_impl.h"
#include "storage/ipc.h"
}

namespace mana_ai {

WhatIfProcess::WhatIfProcess(const char* function) : function_(function) {
    check_may_start(function);
    check_safe_mode(MyDatabaseId);
    // Its segments are files, and prompts must not be in any.
    if (dynamic_shared_memory_type == DSM_IMPL_MMAP)
        throw pg::make_error(
            ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            std::string("cannot execute ") + function + " with dynamic_shared_memory_type = mmap",
            "Prompts would be written to files of the data directory.");
    process_ = AskedProcess::start(kWhatIfMain, "mana_ai what_if", MyDatabaseId);
    if (process_ == nullptr)
        throw pg::make_error(ERRCODE_INSUFFICIENT_RESOURCES,
                             "could not start a background worker for the model call",
                             "All slots for background workers are in use.",
                             "You might need to increase max_worker_processes.");
}

WhatIfProcess::~WhatIfProcess() = default;

core::Json WhatIfProcess::ask(const core::Json& question) {
    std::string text = core::dump_json(question);
    const core::WipeAtEnd wipe_text(text);
    std::optional<core::Json> answer;
    if (process_->ask(text, false) && process_->wait_for_answer(text))
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
void serve(Asker& asker) {
    WhatIfServer server;
    std::string text;
    const core::WipeAtEnd wipe_text(text);
    while (asker.next_question(text)) {
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
        if (!asker.answer(text))
            return;
    }
}

}  // namespace

}  // namespace mana_ai

extern "C" PGDLLEXPORT void mana_ai_what_if_main(Datum segment_handle) {
    using namespace mana_ai;
    pg::entry_point([segment_handle] {
        Asker asker(segment_handle);
        connect_worker(asker.database(), "mana_ai what_if", pg::crash_watch::Code::Tick);
        // Without the extension the caller sees the end of the queues.
        if (!act_as_extension_owner())
            return;
        try {
            serve(asker);
        } catch (const pg::PgError& error) {
            // The caller is gone or has been canceled; what was paid for is recorded.
            if (!error.is_interrupt())
                throw;
        }
    });
    proc_exit(0);
}
