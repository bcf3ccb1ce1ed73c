#include "mana_ai/extension/mission_run.hpp"

#include <algorithm>

#include "mana_ai/core/backoff.hpp"
#include "mana_ai/core/gates.hpp"
#include "mana_ai/core/planner_loop.hpp"
#include "mana_ai/core/prompts.hpp"
#include "mana_ai/extension/run_record.hpp"
#include "mana_ai/extension/write_back.hpp"
#include "mana_ai/pg/error.hpp"
#include "mana_ai/pg/log.hpp"
#include "mana_ai/pg/postgres.hpp"
#include "mana_ai/pg/random.hpp"
#include "mana_ai/pg/settings.hpp"
#include "mana_ai/pg/time.hpp"

namespace mana_ai {

namespace {

constexpr char kBudgetReached[] = "Das Tagesbudget des Agenten ist aufgebraucht.";
constexpr size_t kMaxErrorMessage = 300;  // characters

core::ProviderError transport_error(const net::HttpResponse& response) {
    core::ProviderError error;
    error.message = response.error_detail;
    switch (response.error) {
        case net::TransportError::Timeout:
            error.kind = core::ErrorKind::Timeout;
            break;
        case net::TransportError::TooLarge:
        case net::TransportError::Malformed:
            error.kind = core::ErrorKind::Malformed;
            break;
        default:
            error.kind = core::ErrorKind::Unreachable;
            break;
    }
    return error;
}

core::ModelResult read_response(const net::HttpResponse& response) {
    if (response.error != net::TransportError::None)
        return transport_error(response);
    return core::parse_model_response(response.status, response.body, response.retry_after,
                                      pg::now());
}

// One model call with the retries that belong to it.
net::Task<core::ModelResult> call_model(RunServices& services, std::string body) {
    for (int attempts = 1;; attempts++) {
        net::HttpRequest request;
        request.url = pg::settings::llm_url() + "/v1/chat/completions";
        request.headers.push_back("Content-Type: application/json");
        if (!services.authorization.empty())
            request.headers.push_back(services.authorization);
        request.body = body;
        request.timeout_us = pg::settings::llm_timeout_us();
        const net::HttpResponse response = co_await services.http->send(std::move(request));
        core::ModelResult result = read_response(response);
        const auto* error = std::get_if<core::ProviderError>(&result);
        if (error == nullptr)
            co_return result;
        const core::RetryDecision decision =
            core::retry_within_run(*error, attempts, pg::random_fraction());
        if (!decision.retry)
            co_return result;
        co_await services.loop.sleep_for(decision.delay);
    }
}

// The SQLSTATE alone: the message of a foreign trigger might quote a user's text.
void log_database_trouble(const ClaimedMission& claimed, const std::exception_ptr& cause) {
    std::string what = "internal error";
    try {
        std::rethrow_exception(cause);
    } catch (const pg::PgError& error) {
        what = "SQLSTATE " + error.sqlstate_text();
    } catch (const std::exception&) {
    }
    pg::log_warning("results of run " + claimed.run_id + " of mission " +
                    pg::printable(claimed.mission_id) +
                    " could not be written and are tried again: " + what);
}

// Whether the same statement is likely to succeed later: locks, full disks, shutdowns and the like.
// What a constraint or a trigger refuses now, it refuses until somebody has mended it.
bool may_pass(const std::exception_ptr& failure) {
    try {
        std::rethrow_exception(failure);
    } catch (const pg::PgError& error) {
        if (error.sqlstate == ERRCODE_LOCK_NOT_AVAILABLE)
            return true;
        const int category = ERRCODE_TO_CATEGORY(error.sqlstate);
        return category == ERRCODE_TO_CATEGORY(ERRCODE_CONNECTION_EXCEPTION) ||
               category == ERRCODE_TO_CATEGORY(ERRCODE_TRANSACTION_ROLLBACK) ||
               category == ERRCODE_TO_CATEGORY(ERRCODE_INSUFFICIENT_RESOURCES) ||
               category == ERRCODE_TO_CATEGORY(ERRCODE_OPERATOR_INTERVENTION) ||
               category == ERRCODE_TO_CATEGORY(ERRCODE_SYSTEM_ERROR);
    } catch (...) {
        return false;
    }
}

// Runs a database step until it succeeds or the lease is about to end: what it writes was paid for,
// and a lock or a failover does not last. A refusal is borne for a short while only.
net::Task<void> write_until_done(RunServices& services, const ClaimedMission& claimed,
                                 DatabaseJobs::Work work) {
    constexpr core::Instant kFirstPause = 250'000;
    constexpr core::Instant kLongestPause = 30 * core::kMicrosPerSecond;
    constexpr core::Instant kMargin = 5 * core::kMicrosPerSecond;
    const core::Instant give_up_at = pg::now() + 30 * core::kMicrosPerSecond;
    for (core::Instant pause = kFirstPause;; pause = std::min(pause * 2, kLongestPause)) {
        std::exception_ptr failure;
        try {
            DatabaseJobs::Job job(services.jobs, work);
            co_await job;
        } catch (...) {
            failure = std::current_exception();
        }
        if (!failure)
            co_return;
        if (pause == kFirstPause)
            log_database_trouble(claimed, failure);
        const core::Instant next_try = pg::now() + pause;
        if (next_try + kMargin >= claimed.lease_expires_at ||
            (next_try >= give_up_at && !may_pass(failure)))
            std::rethrow_exception(failure);
        co_await services.loop.sleep_for(pause);
    }
}

void take_totals(const core::PlannerLoop& planner, RunResult& result) {
    result.rounds = planner.rounds();
    result.steps = static_cast<int>(planner.steps().size());
    result.prompt_tokens = planner.usage().prompt;
    result.completion_tokens = planner.usage().completion;
    result.total_tokens = planner.usage().total;
}

// The prompts need the user's wall clock: "tomorrow" means nothing without it.
core::CivilTime local_now() {
    return pg::PostgresTimeZone(pg::settings::timezone()).to_local(pg::now());
}

int64_t used_tokens(const RunServices& services, const ClaimedMission& claimed) {
    const auto newest = services.agent_tokens.find({claimed.user_id, claimed.agent->id});
    return newest != services.agent_tokens.end() ? newest->second : claimed.agent_tokens_24h;
}

// The planner loop itself: model call, usage, verdicts, until the plan stands. Returns the error
// that ended it, if one did.
net::Task<std::optional<core::ProviderError>> plan_mission(RunServices& services,
                                                           const ClaimedMission& claimed,
                                                           core::PlannerLoop& planner) {
    const std::string model = pg::settings::planner_model();
    // What the claim read is younger than what an earlier run of the agent has left behind.
    if (claimed.agent && claimed.agent->max_tokens_per_day)
        services.agent_tokens[{claimed.user_id, claimed.agent->id}] = claimed.agent_tokens_24h;
    while (!planner.finished()) {
        if (claimed.agent &&
            core::is_budget_used_up(*claimed.agent, used_tokens(services, claimed))) {
            planner.end_early(kBudgetReached);
            break;
        }
        // Compaction and reminders, which look at the same state, come before this call.
        std::string body = planner.request_body(model);
        const core::ModelResult answer = co_await call_model(services, std::move(body));
        if (const auto* error = std::get_if<core::ProviderError>(&answer))
            co_return *error;
        const auto& reply = std::get<core::ModelReply>(answer);
        planner.on_reply(reply);
        DatabaseJobs::Work record = [&] {
            const int64_t used = record_usage(claimed, reply.usage, planner.rounds());
            if (claimed.agent && claimed.agent->max_tokens_per_day)
                services.agent_tokens[{claimed.user_id, claimed.agent->id}] = used;
        };
        co_await write_until_done(services, claimed, std::move(record));
    }
    co_return std::nullopt;
}

struct Failure {
    std::string kind;  // of core::ErrorKind, or "database"
    std::string message;
    core::Instant delay = 0;  // until the mission may be tried again
};

// Some gateways quote the key that they refuse.
std::string without_key(std::string message, const std::string& authorization) {
    const size_t space = authorization.rfind(' ');
    if (space == std::string::npos)
        return message;
    const std::string_view key = std::string_view(authorization).substr(space + 1);
    for (size_t at = message.find(key); at != std::string::npos; at = message.find(key))
        message.replace(at, key.size(), "[key]");
    return message;
}

Failure provider_failure(const RunServices& services, const ClaimedMission& claimed,
                         const core::ProviderError& error) {
    Failure failure;
    failure.kind = core::name(error.kind);
    failure.message =
        core::cut_utf8(without_key(error.message, services.authorization), kMaxErrorMessage);
    if (error.http_status != 0)
        failure.message = "HTTP " + std::to_string(error.http_status) + ": " + failure.message;
    failure.delay = core::mission_backoff_delay(error.kind, claimed.attempts + 1,
                                                pg::random_fraction(), error.retry_after);
    return failure;
}

// Says what a caught error says without what might quote a user's text.
Failure internal_failure(const ClaimedMission& claimed, const std::exception_ptr& cause) {
    Failure failure;
    failure.kind = "database";
    failure.delay = core::mission_backoff_delay(core::ErrorKind::Unknown, claimed.attempts + 1,
                                                pg::random_fraction(), std::nullopt);
    try {
        std::rethrow_exception(cause);
    } catch (const pg::PgError& error) {
        failure.message = "SQLSTATE " + error.sqlstate_text();
    } catch (const std::exception&) {
        failure.kind = "internal";
        failure.message = "internal error";
    }
    return failure;
}

net::Task<void> record_failure(RunServices& services, const ClaimedMission& claimed,
                               Failure failure, RunResult& result) {
    result.outcome = RunOutcome::Failed;
    result.error_kind = failure.kind;
    result.error_message = failure.message;
    const core::Instant now = pg::now();
    DatabaseJobs::Work record = [&] {
        // The change may have cured what made the run fail, so it is not held back.
        const core::Instant not_before = mission_has_changed(claimed) ? now : now + failure.delay;
        if (!hold_lease(claimed))
            return;
        finish_run(claimed, result, now);
        release_lease_after_failure(claimed, result.error_kind, not_before, now);
    };
    co_await write_until_done(services, claimed, std::move(record));
}

}  // namespace

net::Task<void> run_mission(RunServices& services, const ClaimedMission& claimed,
                            RunResult& result) {
    // What the mission reads (docs/contract/inputs.md) is resolved here, before the prompts.
    const std::vector<core::ResolvedInput> inputs;
    const core::Agent* agent = claimed.agent ? &*claimed.agent : nullptr;
    std::exception_ptr failure;
    try {
        core::PlannerLoop planner(
            core::system_prompt(agent), core::user_prompt(claimed.mission, inputs, local_now()),
            services.catalog.offer(agent != nullptr ? &agent->policy : nullptr));
        const auto error = co_await plan_mission(services, claimed, planner);
        take_totals(planner, result);
        if (error) {
            Failure reason = provider_failure(services, claimed, *error);
            co_await record_failure(services, claimed, std::move(reason), result);
        } else {
            const FinishedPlan plan{planner.steps(), planner.summary()};
            DatabaseJobs::Work write = [&] { write_back(claimed, plan, result); };
            co_await write_until_done(services, claimed, std::move(write));
        }
    } catch (...) {
        failure = std::current_exception();
    }
    if (!failure)
        co_return;
    // The database would not take the plan for as long as the lease allowed: say so if it lets us.
    Failure reason = internal_failure(claimed, failure);
    try {
        co_await record_failure(services, claimed, std::move(reason), result);
    } catch (const std::exception&) {
        // The lease runs out; the run is then recorded as crashed.
        result.outcome = RunOutcome::Failed;
    }
}

}  // namespace mana_ai
