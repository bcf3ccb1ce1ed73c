#include "mana_ai/extension/run/model_call.hpp"

#include <algorithm>
#include <chrono>

#include "mana_ai/core/service/retry_policy.hpp"
#include "mana_ai/core/text/json.hpp"
#include "mana_ai/core/text/utf8.hpp"
#include "mana_ai/core/text/wipe.hpp"
#include "mana_ai/extension/lease/run_metrics.hpp"
#include "mana_ai/pg/crash_watch.hpp"
#include "mana_ai/pg/failpoint.hpp"
#include "mana_ai/pg/random.hpp"
#include "mana_ai/pg/settings.hpp"
#include "mana_ai/pg/time.hpp"

namespace mana_ai {

namespace {

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

// A gateway may have used another model than the requested one.
void name_the_answerer(core::ModelReply& reply, const net::HttpResponse& response,
                       const std::string& asked_model) {
    if (!response.resolved_model.empty())
        reply.model =
            core::cut_utf8(core::repair_utf8(response.resolved_model), core::kMaxModelName);
    if (reply.model.empty())
        reply.model = asked_model;
    core::name_served_tier(reply, response.served_tier);
}

void end_call_span(SpanScope& span, const std::string& model, const net::HttpResponse& response,
                   const core::ModelResult& result) {
    if (!span)
        return;
    span.set("llm.model", model);
    if (response.status != 0)
        span.set("http.status_code", response.status);
    if (const auto* error = std::get_if<core::ProviderError>(&result)) {
        span.fail(core::name(error->kind));
    } else {
        const auto& reply = std::get<core::ModelReply>(result);
        span.set("llm.tokens.prompt", reply.usage.prompt);
        span.set("llm.tokens.completion", reply.usage.completion);
        span.set("llm.tokens.total", reply.usage.total);
        span.set("llm.tokens.cached", reply.usage.cached);
        span.set("llm.tokens.reasoning", reply.usage.reasoning);
        span.set("llm.answered_by", reply.model);
        span.set("llm.response.length",
                 static_cast<int64_t>(core::count_code_points(reply.content)));
    }
    span.end();
}

// How long a call may wait for its turn and for retries while the service refuses it. A run that
// has paid for replies waits longer; one that has spent nothing releases its lease.
constexpr core::Instant kPatienceOfNew = 5 * core::kMicrosPerSecond;
constexpr int kMaxRefusals = 8;

// The error of a call that was not sent.
core::ProviderError turned_away(const net::CallGate& gate) {
    core::ProviderError error;
    error.kind = gate.is_closed() ? core::ErrorKind::Unreachable : core::ErrorKind::RateLimit;
    error.message =
        gate.is_closed() ? "the service is unavailable" : "the service limits the rate of calls";
    error.of_service = true;
    return error;
}

// The error of a call whose model an operator has stopped.
core::ProviderError stopped_by_operator() {
    core::ProviderError error;
    error.kind = core::ErrorKind::NoProvider;
    error.message = "the model was stopped by an operator";
    error.of_service = true;
    return error;
}

// The mission, for the gates.
uint64_t caller_of(const ClaimedMission& claimed) {
    return std::hash<std::string>()(claimed.user_id + '\n' + claimed.mission_id);
}

// Open, or to be probed now.
bool may_be_asked(RunServices& services, const std::string& model) {
    if (services.stops.models.contains(model))
        return false;
    net::CallGate& gate = services.gates.of_model(model);
    return !gate.is_closed() || gate.claimable(0) > 0;
}

std::optional<size_t> next_to_ask(RunServices& services, const PlannerModels& models, size_t from) {
    for (size_t i = from; i < models.names.size(); i++)
        if (may_be_asked(services, models.names[i]))
            return i;
    return std::nullopt;
}

// It may quote decrypted text, but not in what all requests begin with, which is most of it.
void wipe(core::ChatBody& body) {
    core::wipe(body.text, body.of_all);
}

struct WipeBody {
    explicit WipeBody(core::ChatBody& to_wipe) : body(to_wipe) {}
    ~WipeBody() { wipe(body); }
    WipeBody(const WipeBody&) = delete;
    WipeBody& operator=(const WipeBody&) = delete;

    core::ChatBody& body;
};

bool is_for_another_model(const core::ProviderError& error, const net::CallGate& gate) {
    return error.kind == core::ErrorKind::Capability || error.kind == core::ErrorKind::NoProvider ||
           gate.is_closed();
}

}  // namespace

bool has_failed_others(RunServices& services, const ClaimedMission& claimed,
                       const std::string& model) {
    return services.gates.of_model(model).has_failed_others(caller_of(claimed));
}

net::Task<core::ModelResult> call_model(RunServices& services, const ClaimedMission& claimed,
                                        CallWish wish, const BodyOf& body_of) {
    core::ChatBody body;
    const WipeBody wipe_body(body);
    std::optional<std::string> body_tier;  // requested in the body
    const uint64_t caller = caller_of(claimed);
    int64_t begun = services.loop.now_us();
    const int64_t patience = wish.has_paid ? kPatienceOfPaid : kPatienceOfNew;
    int refusals = 0;
    std::optional<core::ProviderError> last;
    core::FailedCall failed;
    const auto blame = [&](const net::CallGate& gate, core::ProviderError& error) {
        failed.is_closed = gate.is_closed();
        failed.others_failed = gate.has_failed_others(caller);
        failed.others_answered = gate.has_answered_since(begun);
        failed.is_refused_often = refusals >= kMaxRefusals;
        failed.has_paid = wish.has_paid;
        failed.was_of_service = claimed.previous_decision == kSkippedService;
        error.of_service = core::is_of_service(failed);
    };
    for (int attempts = 1;; attempts++) {
        // Looked up again: it may have been removed during a pause, after a change of settings.
        net::CallGate& gate = services.gates.of_model(wish.model);
        const bool is_new = !wish.has_paid && !last;
        const net::CallGate::Patience left{
            std::max<int64_t>(begun + patience - services.loop.now_us(), 0),
            wish.has_paid && !wish.has_alternative ? patience : 0};
        net::CallGate::Turn turn(
            gate, caller, is_new ? net::CallGate::Order::New : net::CallGate::Order::Begun, left);
        services.gates.arrived(claimed.run_id);
        const bool may_call = co_await turn;
        MANA_AI_FAILPOINT("run.turn");
        if (!may_call && !last)
            co_return turned_away(gate);
        if (!may_call) {
            blame(gate, *last);
            co_return std::move(*last);
        }
        // Possibly while this call waited for its turn.
        if (services.stops.models.contains(wish.model))
            co_return stopped_by_operator();
        // A probe tests the service, not a tier.
        const std::string tier = gate.is_closed() ? std::string() : wish.tier.name;
        if (body_tier != tier) {
            wipe(body);
            body = body_of(wish.model, tier);
            body_tier = tier;
        }
        SpanScope span(claimed.trace, "planner.complete", core::SpanKind::Client);
        net::HttpRequest request;
        request.url = pg::settings::llm_url() + "/v1/chat/completions";
        request.headers.push_back("Content-Type: application/json");
        if (!services.authorization.empty())
            request.headers.push_back(services.authorization);
        span.add_header(request.headers);
        request.lent_body = &body.text;
        request.timeout_us = pg::settings::llm_timeout_us();
        const auto sent = std::chrono::steady_clock::now();
        MANA_AI_FAILPOINT("run.before_call");
        const net::HttpResponse response = co_await services.http->send(std::move(request));
        pg::crash_watch::note_mission(claimed.user_id, claimed.mission_id);
        MANA_AI_FAILPOINT("run.after_call");
        core::ModelResult result = read_response(response);
        if (auto* reply = std::get_if<core::ModelReply>(&result))
            name_the_answerer(*reply, response, wish.model);
        end_call_span(span, wish.model, response, result);
        // An impossible number must not use up a budget, but the reply must not be free either: a
        // token is about four bytes.
        if (auto* reply = std::get_if<core::ModelReply>(&result);
            reply != nullptr && reply->usage_is_absurd) {
            reply->usage.prompt = static_cast<int64_t>(body.text.size() / 4);
            reply->usage.completion = static_cast<int64_t>(response.body.size() / 4);
            reply->usage.total = reply->usage.prompt + reply->usage.completion;
        }
        count_model_request(wish.model, sent, result);
        core::CallReport report = report_of(response);
        auto* error = std::get_if<core::ProviderError>(&result);
        if (error == nullptr) {
            const auto& reply = std::get<core::ModelReply>(result);
            report.end = core::call_end(reply);
            report.tokens = static_cast<double>(reply.usage.total);
        } else {
            report.end = core::call_end(*error, report.end);
        }
        if (error != nullptr && !tier.empty() && core::is_refusal_of_tier(*error)) {
            // It says nothing about the service: the standard tier is tried at once.
            wish.tier.name.clear();
            report = {};
            report.end = core::CallEnd::Dropped;
            turn.end(report);
            last = *error;
            failed.end = core::CallEnd::Refused;
            begun = services.loop.now_us();
            continue;
        }
        turn.end(report);
        if (error == nullptr)
            co_return result;
        last = *error;
        failed.end = report.end;
        const bool has_time = services.loop.now_us() < begun + patience;
        // The gate knows when.
        if (report.end == core::CallEnd::Refused && has_time && ++refusals < kMaxRefusals)
            continue;
        const core::RetryDecision decision =
            core::retry_within_run(*error, attempts - refusals, pg::random_fraction());
        if (decision.retry && report.end != core::CallEnd::Refused) {
            co_await services.loop.sleep_for(decision.delay);
            MANA_AI_FAILPOINT("run.retry_call");
            continue;
        }
        // Paid replies are worth waiting for. If only this run makes calls, it takes some more
        // failures until the gate closes and defines the pause.
        if (wish.has_paid && !wish.has_alternative && has_time &&
            report.end != core::CallEnd::Answered && report.end != core::CallEnd::Refused) {
            if (gate.is_closed())
                continue;
            if (report.end == core::CallEnd::Down && !gate.has_answered_since(begun)) {
                co_await services.loop.sleep_for(core::kMicrosPerSecond);
                MANA_AI_FAILPOINT("run.retry_call");
                continue;
            }
        }
        blame(gate, *error);
        co_return result;
    }
}

PlannerModels planner_models() {
    return {pg::settings::planner_models(), 0};
}

net::Task<core::ModelResult> call_planner(RunServices& services, const ClaimedMission& claimed,
                                          PlannerModels& models, ServiceTier& tier, bool has_paid,
                                          const BodyOf& body_of) {
    if (const auto next = next_to_ask(services, models, models.current)) {
        models.current = *next;
    } else {
        // All are unavailable. Wait for the first one that may be used.
        while (models.current + 1 < models.names.size() &&
               services.stops.models.contains(models.name()))
            models.current++;
    }
    std::optional<core::ProviderError> of_service;
    for (;;) {
        const bool has_alternative = next_to_ask(services, models, models.current + 1).has_value();
        const CallWish wish{models.name(), tier, has_paid, has_alternative};
        core::ModelResult result = co_await call_model(services, claimed, wish, body_of);
        const auto* error = std::get_if<core::ProviderError>(&result);
        if (error == nullptr)
            co_return result;
        if (error->of_service && !of_service)
            of_service = *error;
        const auto next = next_to_ask(services, models, models.current + 1);
        if (!next || !is_for_another_model(*error, services.gates.of_model(models.name()))) {
            // One of them may serve the call as soon as it is available again.
            if (of_service && !error->of_service)
                co_return std::move(*of_service);
            co_return result;
        }
        models.current = *next;
    }
}

}  // namespace mana_ai
