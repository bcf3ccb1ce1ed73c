#include "mana_ai/extension/http/query_process.hpp"
#include "mana_ai/extension/process/background_worker.hpp"

#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

#include "mana_ai/extension/process/databases.hpp"
#include "mana_ai/extension/process/processes.hpp"
#include "mana_ai/extension/process/worker_session.hpp"
#include "mana_ai/pg/compat.hpp"
#include "mana_ai/pg/guard.hpp"
#include "mana_ai/pg/log.hpp"
#include "mana_ai/pg/spi.hpp"
#include "mana_ai/pg/termination.hpp"
#include "mana_ai/pg/time.hpp"
#include "mana_ai/pg/transaction.hpp"

extern "C" {
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "postmaster/bgworker.h"
#include "storage/dsm.h"
#include "storage/ipc.h"
#include "storage/proc.h"
#include "storage/shm_mq.h"
#include "utils/timeout.h"
}

namespace mana_ai {

namespace {

constexpr size_t kQuestionQueue = size_t{64} << 10;
constexpr size_t kAnswerQueue = size_t{64} << 10;
constexpr size_t kLongestQuestion = size_t{32} << 10;
constexpr size_t kMaxWaiting = 64;
constexpr core::Instant kQueryTimeout = 10 * core::kMicrosPerSecond;
// The process ends a slow statement itself, so that it is there for the next question.
constexpr int kStatementTimeoutMs = 9000;
// DROP DATABASE waits five seconds for sessions to leave, and allows no new ones in that time. So a
// process exits soon without questions, and not much later if they never stop.
constexpr core::Instant kLinger = core::kMicrosPerSecond;
constexpr core::Instant kLongestLife = 3 * core::kMicrosPerSecond;
// After a process that could not answer: anybody may ask, and each attempt costs a process.
constexpr core::Instant kReopenPause = core::kMicrosPerSecond;

constexpr core::Instant kComplaintPause = core::kMicrosPerMinute;

// At the start of the segment; the queues follow.
struct Head {
    Oid database;
};

char* question_place(dsm_segment* segment) {
    return static_cast<char*>(dsm_segment_address(segment)) + MAXALIGN(sizeof(Head));
}
char* answer_place(dsm_segment* segment) {
    return question_place(segment) + kQuestionQueue;
}

bool send(shm_mq_handle* queue, const std::string& text, bool nowait) {
    return pg::guarded([&] {
               return pg::compat::send_message(queue, text.size(), text.data(), nowait);
           }) == SHM_MQ_SUCCESS;
}

// ---------------------------------------------------------------- the process's side

std::string one_value(pg::StatementResult result) {
    return result.rows.empty() || result.rows.front().is_null(0) ? std::string()
                                                                 : result.rows.front().take_text(0);
}

std::string answer_to(const core::Json& question) {
    static pg::Statement metrics("SELECT mana_ai.metrics()");
    static pg::Statement status("SELECT mana_ai.http_status()::text");
    static pg::Statement missions("SELECT mana_ai.http_missions($1)::text");
    static pg::Statement audit("SELECT mana_ai.http_audit($1, $2, $3::int)::text");
    const std::string_view what = core::string_or(question, "question", {});
    if (what == "metrics")
        return one_value(metrics.execute());
    if (what == "status")
        return one_value(status.execute());
    if (what == "brake") {
        static pg::Statement brake("SELECT mana_ai.http_brake($1, $2)");
        const std::string scope = question.at("scope");
        const auto reason = question.at("reason").is_null()
                                ? std::nullopt
                                : std::optional<std::string>(question.at("reason"));
        return one_value(brake.execute({std::string_view(scope), pg::text_or_null(reason)}));
    }
    const std::string user_id = question.at("user_id");
    if (what == "missions")
        return one_value(missions.execute({std::string_view(user_id)}));
    const std::string mission_id = question.at("mission_id");
    const pg::Param mission =
        mission_id.empty() ? pg::Param(pg::Null{TEXTOID}) : pg::Param(std::string_view(mission_id));
    return one_value(
        audit.execute({std::string_view(user_id), mission, question.at("limit").get<int64_t>()}));
}

// Ends the code in its scope like statement_timeout, which works in client sessions only.
class StatementTimeout {
 public:
    StatementTimeout() {
        pg::guarded([] { enable_timeout_after(STATEMENT_TIMEOUT, kStatementTimeoutMs); });
    }
    ~StatementTimeout() {
        disable_timeout(STATEMENT_TIMEOUT, false);
        // It may have arrived after the statement's end.
        if (!pg::termination_requested())
            QueryCancelPending = false;
    }
    StatementTimeout(const StatementTimeout&) = delete;
    StatementTimeout& operator=(const StatementTimeout&) = delete;
};

// The first byte says whether there is an answer.
std::string reply_to(const std::string& text) {
    static bool said_so = false;
    std::string reply = "!";
    try {
        const auto question = core::parse_json(text);
        const StatementTimeout timeout;
        pg::Transaction transaction("mana_ai: answering an HTTP request");
        XactReadOnly = core::string_or(question.value(), "question", {}) != "brake";
        reply = "=" + answer_to(question.value());
        transaction.commit();
    } catch (const pg::PgError& error) {
        if (pg::termination_requested())
            throw;
        // The message could quote a user's input. Once in this process's short life is enough,
        // since anybody may ask.
        if (!said_so)
            pg::log_warning("a query of the HTTP endpoint failed (SQLSTATE " +
                            error.sqlstate_text() + ")");
        said_so = true;
        reply = "!";
    }
    return reply;
}

[[noreturn]] void serve(shm_mq_handle* questions, shm_mq_handle* answers) {
    for (;;) {
        Size size = 0;
        void* data = nullptr;
        const shm_mq_result result =
            pg::guarded([&] { return shm_mq_receive(questions, &size, &data, false); });
        if (result != SHM_MQ_SUCCESS)
            proc_exit(0);
        const std::string reply = reply_to({static_cast<const char*>(data), size});
        if (!send(answers, reply, false))
            proc_exit(0);
    }
}

}  // namespace

// ---------------------------------------------------------------- the caller's side

namespace {

// Processes that run for this one. proc_exit() runs no destructor, and a process that is busy with
// a query does not notice the end of its queues.
std::vector<BackgroundWorkerHandle*>& running() {
    static std::vector<BackgroundWorkerHandle*> handles;
    return handles;
}

extern "C" {
static void terminate_running(int, Datum) {
    for (BackgroundWorkerHandle* handle : running())
        TerminateBackgroundWorker(handle);
}
}

}  // namespace

struct QueryProcess::Pipe {
    ~Pipe() {
        // The process ends with its queues; one that is busy with a query is also terminated.
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

QueryProcess::QueryProcess() = default;
QueryProcess::~QueryProcess() = default;

bool QueryProcess::open_pipe() {
    const auto databases = configured_databases();
    const Oid database = databases.empty() ? InvalidOid : find_database(databases.front());
    if (!OidIsValid(database))
        return false;
    static const bool registered =
        (pg::guarded([] { before_shmem_exit(terminate_running, 0); }), true);
    (void)registered;
    running().reserve(running().size() + 1);
    auto pipe = std::make_unique<Pipe>();
    pipe->segment = pg::guarded(
        [] { return dsm_create(MAXALIGN(sizeof(Head)) + kQuestionQueue + kAnswerQueue, 0); });
    Pipe* const p = pipe.get();
    const bool started = pg::guarded([p, database] {
        static_cast<Head*>(dsm_segment_address(p->segment))->database = database;
        shm_mq* questions = shm_mq_create(question_place(p->segment), kQuestionQueue);
        shm_mq* answers = shm_mq_create(answer_place(p->segment), kAnswerQueue);
        shm_mq_set_sender(questions, MyProc);
        shm_mq_set_receiver(answers, MyProc);
        BackgroundWorker worker =
            background_worker(kQueryMain, "mana_ai http query", "mana_ai http query");
        worker.bgw_main_arg = UInt32GetDatum(dsm_segment_handle(p->segment));
        p->handle = start_background_worker(worker);
        if (p->handle == nullptr)
            return false;
        const MemoryContext previous = MemoryContextSwitchTo(TopMemoryContext);
        running().push_back(p->handle);
        p->questions = shm_mq_attach(questions, p->segment, p->handle);
        p->answers = shm_mq_attach(answers, p->segment, p->handle);
        MemoryContextSwitchTo(previous);
        return true;
    });
    if (!started) {
        complain("all slots for background workers are in use");
        return false;
    }
    pipe_ = std::move(pipe);
    opened_at_ = pg::monotonic_now();
    return true;
}

void QueryProcess::ask(core::Json question, Done done) {
    Waiting waiting{core::dump_json(question), std::move(done)};
    if (waiting_.size() >= kMaxWaiting || waiting.question.size() > kLongestQuestion) {
        waiting.done({});
        return;
    }
    waiting_.push_back(std::move(waiting));
    if (!asked_)
        SetLatch(MyLatch);
}

// Anybody may ask, so it logs at most one line a minute.
void QueryProcess::complain(const std::string& reason) {
    const core::Instant now = pg::monotonic_now();
    if (complained_at_ && now - *complained_at_ < kComplaintPause)
        return;
    complained_at_ = now;
    pg::log_warning("a query of the HTTP endpoint was not answered: " + reason);
}

void QueryProcess::finish(QueryResult result) {
    const Waiting asked = std::move(*asked_);
    asked_.reset();
    deadline_ = std::min(pg::monotonic_now() + kLinger, opened_at_ + kLongestLife);
    if (pg::monotonic_now() >= deadline_)
        pipe_.reset();
    asked.done(std::move(result));
}

void QueryProcess::start_next() {
    while (!asked_ && !waiting_.empty()) {
        asked_ = std::move(waiting_.front());
        waiting_.pop_front();
        deadline_ = pg::monotonic_now() + kQueryTimeout;
        bool sent = false;
        try {
            sent = (pipe_ != nullptr || (pg::monotonic_now() >= reopen_at_ && open_pipe())) &&
                   send(pipe_->questions, asked_->question, true);
        } catch (const pg::PgError& error) {
            if (error.is_interrupt())
                throw;
            complain("its process could not be started (SQLSTATE " + error.sqlstate_text() + ")");
        }
        if (!sent) {
            // An attempt during the pause does not extend it.
            if (pg::monotonic_now() >= reopen_at_)
                reopen_at_ = pg::monotonic_now() + kReopenPause;
            pipe_.reset();
            finish({});
        }
    }
}

void QueryProcess::poll() {
    if (asked_) {
        Size size = 0;
        void* data = nullptr;
        const shm_mq_result result =
            pg::guarded([&] { return shm_mq_receive(pipe_->answers, &size, &data, true); });
        if (result == SHM_MQ_SUCCESS) {
            const std::string reply(static_cast<const char*>(data), size);
            finish({reply.starts_with('='), reply.empty() ? std::string() : reply.substr(1)});
        } else if (result == SHM_MQ_DETACHED) {
            reopen_at_ = pg::monotonic_now() + kReopenPause;
            pipe_.reset();
            finish({});
        } else if (pg::monotonic_now() >= deadline_) {
            // If it is merely slow, the next question need not wait.
            pid_t pid = 0;
            const bool slow = GetBackgroundWorkerPid(pipe_->handle, &pid) == BGWH_STARTED;
            complain(slow ? "no answer within the time limit" : "its process did not start");
            if (!slow)
                reopen_at_ = pg::monotonic_now() + kReopenPause;
            pipe_.reset();
            finish({});
        }
    }
    start_next();
    if (!asked_ && pipe_ != nullptr && pg::monotonic_now() >= deadline_)
        pipe_.reset();
}

std::optional<core::Instant> QueryProcess::next_at() const {
    if (pipe_ == nullptr)
        return std::nullopt;
    return deadline_;
}

}  // namespace mana_ai

extern "C" PGDLLEXPORT void mana_ai_query_main(Datum segment_handle) {
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
                       "mana_ai http query", pg::crash_watch::Code::Query);
        // The caller sees the end of the queues. Prometheus asks every few seconds.
        const auto safe = pg::crash_watch::safe_mode(MyDatabaseId);
        if (safe && safe->code == pg::crash_watch::Code::Query)
            proc_exit(0);
        plan_for_reports();
        // Without the extension nothing can be answered; the caller sees the end of the queues.
        if (!act_as_extension_owner())
            proc_exit(0);
        try {
            serve(from, to);
        } catch (const pg::PgError&) {
            if (!pg::termination_requested())
                throw;
            proc_exit(0);
        }
    });
}
