#include "mana_ai/extension/http/query_process.hpp"
#include "mana_ai/extension/process/asked_process.hpp"

#include <algorithm>
#include <utility>

#include "mana_ai/extension/process/databases.hpp"
#include "mana_ai/extension/process/processes.hpp"
#include "mana_ai/extension/process/worker_session.hpp"
#include "mana_ai/pg/guard.hpp"
#include "mana_ai/pg/log.hpp"
#include "mana_ai/pg/spi.hpp"
#include "mana_ai/pg/termination.hpp"
#include "mana_ai/pg/time.hpp"
#include "mana_ai/pg/transaction.hpp"

extern "C" {
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "storage/ipc.h"
#include "utils/timeout.h"
}

namespace mana_ai {

namespace {

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

[[noreturn]] void serve(Asker& asker) {
    std::string text;
    while (asker.next_question(text) && asker.answer(reply_to(text)))
        continue;
    proc_exit(0);
}

}  // namespace

// ---------------------------------------------------------------- the caller's side

QueryProcess::QueryProcess() = default;
QueryProcess::~QueryProcess() = default;

bool QueryProcess::start_process() {
    const auto databases = configured_databases();
    const Oid database = databases.empty() ? InvalidOid : find_database(databases.front());
    if (!OidIsValid(database))
        return false;
    process_ = AskedProcess::start(kQueryMain, "mana_ai http query", database);
    if (process_ == nullptr) {
        complain("all slots for background workers are in use");
        return false;
    }
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
        process_.reset();
    asked.done(std::move(result));
}

void QueryProcess::start_next() {
    while (!asked_ && !waiting_.empty()) {
        asked_ = std::move(waiting_.front());
        waiting_.pop_front();
        deadline_ = pg::monotonic_now() + kQueryTimeout;
        bool sent = false;
        try {
            sent =
                (process_ != nullptr || (pg::monotonic_now() >= reopen_at_ && start_process())) &&
                process_->ask(asked_->question, true);
        } catch (const pg::PgError& error) {
            if (error.is_interrupt())
                throw;
            complain("its process could not be started (SQLSTATE " + error.sqlstate_text() + ")");
        }
        if (!sent) {
            // An attempt during the pause does not extend it.
            if (pg::monotonic_now() >= reopen_at_)
                reopen_at_ = pg::monotonic_now() + kReopenPause;
            process_.reset();
            finish({});
        }
    }
}

void QueryProcess::poll() {
    if (asked_) {
        std::string reply;
        const shm_mq_result result = process_->look_for_answer(reply);
        if (result == SHM_MQ_SUCCESS) {
            finish({reply.starts_with('='), reply.empty() ? std::string() : reply.substr(1)});
        } else if (result == SHM_MQ_DETACHED) {
            reopen_at_ = pg::monotonic_now() + kReopenPause;
            process_.reset();
            finish({});
        } else if (pg::monotonic_now() >= deadline_) {
            // If it is merely slow, the next question need not wait.
            const bool slow = process_->is_running();
            complain(slow ? "no answer within the time limit" : "its process did not start");
            if (!slow)
                reopen_at_ = pg::monotonic_now() + kReopenPause;
            process_.reset();
            finish({});
        }
    }
    start_next();
    if (!asked_ && process_ != nullptr && pg::monotonic_now() >= deadline_)
        process_.reset();
}

std::optional<core::Instant> QueryProcess::next_at() const {
    if (process_ == nullptr)
        return std::nullopt;
    return deadline_;
}

}  // namespace mana_ai

extern "C" PGDLLEXPORT void mana_ai_query_main(Datum segment_handle) {
    using namespace mana_ai;
    pg::entry_point([segment_handle] {
        Asker asker(segment_handle);
        connect_worker(asker.database(), "mana_ai http query", pg::crash_watch::Code::Query);
        // The caller sees the end of the queues. Prometheus asks every few seconds.
        const auto safe = pg::crash_watch::safe_mode(MyDatabaseId);
        if (safe && safe->code == pg::crash_watch::Code::Query)
            proc_exit(0);
        plan_for_reports();
        // Without the extension nothing can be answered; the caller sees the end of the queues.
        if (!act_as_extension_owner())
            proc_exit(0);
        try {
            serve(asker);
        } catch (const pg::PgError&) {
            if (!pg::termination_requested())
                throw;
            proc_exit(0);
        }
    });
}
