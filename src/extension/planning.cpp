#include "mana_ai/extension/planning.hpp"

#include "mana_ai/core/backoff.hpp"
#include "mana_ai/core/gates.hpp"
#include "mana_ai/extension/durable_step.hpp"
#include "mana_ai/extension/run_record.hpp"
#include "mana_ai/pg/random.hpp"
#include "mana_ai/pg/settings.hpp"
#include "mana_ai/pg/time.hpp"

namespace mana_ai {

namespace {

constexpr char kBudgetReached[] = "Das Tagesbudget des Agenten ist aufgebraucht.";

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

int64_t used_tokens(const RunServices& services, const ClaimedMission& claimed) {
    const auto newest = services.agent_tokens.find({claimed.user_id, claimed.agent->id});
    return newest != services.agent_tokens.end() ? newest->second : claimed.agent_tokens_24h;
}

}  // namespace

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

}  // namespace mana_ai
