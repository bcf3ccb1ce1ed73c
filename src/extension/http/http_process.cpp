// The process of the HTTP endpoint (docs/architecture.md, "Processes"). It is connected to no
// database: it does not block DROP DATABASE and answers even if there is no database.

#include <algorithm>
#include <stdexcept>
#include <string>

#include "mana_ai/core/time/instant.hpp"
#include "mana_ai/extension/http/http_endpoint.hpp"
#include "mana_ai/extension/process/processes.hpp"
#include "mana_ai/extension/process/static_process.hpp"
#include "mana_ai/pg/guard.hpp"
#include "mana_ai/pg/log.hpp"
#include "mana_ai/pg/settings.hpp"
#include "mana_ai/pg/time.hpp"
#include "mana_ai/pg/wait.hpp"

namespace mana_ai {

namespace {

constexpr core::Instant kListenPause = 2 * core::kMicrosPerSecond;
constexpr core::Instant kLongestWait = 60 * core::kMicrosPerSecond;

class HttpProcess {
 public:
    HttpProcess()
        : turn_context_(
              AllocSetContextCreate(TopMemoryContext, "mana_ai http turn", ALLOCSET_DEFAULT_SIZES)),
          wait_set_(loop_.fd()),
          endpoint_(loop_) {}

    [[noreturn]] void run();

 private:
    void try_to_listen();
    int64_t pause() const;

    MemoryContext turn_context_;
    net::EventLoop loop_;
    pg::WaitSet wait_set_;
    HttpEndpoint endpoint_;
    core::Instant listen_at_ = 0;
    bool said_why_not_ = false;
};

// The port may be in use, perhaps by a server that is about to end: logs one line, then retries.
void HttpProcess::try_to_listen() {
    listen_at_ = pg::monotonic_now() + kListenPause;
    if (const auto safe = pg::crash_watch::safe_mode_of(pg::crash_watch::Code::Http)) {
        if (!said_why_not_)
            pg::log_warning(
                "HTTP endpoint is off in safe mode: " + pg::crash_watch::describe(*safe) +
                "; mana_ai.resume_after_crash() ends that");
        said_why_not_ = true;
        return;
    }
    const std::string address = pg::settings::http_listen();
    try {
        endpoint_.listen();
        pg::log_info("HTTP endpoint listens on " + address);
        said_why_not_ = false;
    } catch (const std::runtime_error& error) {
        if (!said_why_not_)
            pg::log_warning("HTTP endpoint: cannot listen on " + address +
                            ", trying again: " + error.what());
        said_why_not_ = true;
    }
}

int64_t HttpProcess::pause() const {
    const core::Instant now = pg::monotonic_now();
    core::Instant until = now + kLongestWait;
    if (!endpoint_.listens())
        until = std::min(until, listen_at_);
    if (const auto next = endpoint_.next_at())
        until = std::min(until, *next);
    int64_t pause = std::max<int64_t>(until - now, 0);
    if (const auto timeout = loop_.next_timeout_us())
        pause = std::min(pause, *timeout);
    return pause;
}

void HttpProcess::run() {
    for (;;) {
        MemoryContextSwitchTo(turn_context_);
        MemoryContextReset(turn_context_);
        if (!endpoint_.listens() && pg::monotonic_now() >= listen_at_)
            try_to_listen();
        wait_set_.wait(pause());
        handle_static_signals();
        loop_.run_ready();
        endpoint_.poll();
    }
}

}  // namespace

void register_http_endpoint() {
    if (pg::settings::http_listen().empty())
        return;
    register_static_process(kHttpMain, "mana_ai http", 1);
}

}  // namespace mana_ai

extern "C" PGDLLEXPORT void mana_ai_http_main(Datum) {
    using namespace mana_ai;
    pg::entry_point([] {
        begin_static_process("mana_ai http", pg::crash_watch::Code::Http);
        HttpProcess process;
        process.run();
    });
}
