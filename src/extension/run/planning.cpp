#include "mana_ai/extension/run/planning.hpp"

#include <algorithm>
#include <functional>
#include <set>

#include "mana_ai/core/planner/reminders.hpp"
#include "mana_ai/core/service/backoff.hpp"
#include "mana_ai/core/text/json.hpp"
#include "mana_ai/core/text/wipe.hpp"
#include "mana_ai/extension/run/budgets.hpp"
#include "mana_ai/extension/run/durable_step.hpp"
#include "mana_ai/extension/run/run_metrics.hpp"
#include "mana_ai/extension/run/run_record.hpp"
#include "mana_ai/pg/crash_watch.hpp"
#include "mana_ai/pg/failpoint.hpp"
#include "mana_ai/pg/log.hpp"
#include "mana_ai/pg/random.hpp"
#include "mana_ai/pg/settings.hpp"
#include "mana_ai/pg/time.hpp"

namespace mana_ai {

namespace {

constexpr core::Instant kClaimIsFresh = core::kMicrosPerSecond / 20;

// How long a run that has paid for replies waits for other calls to end, whose reservations leave
// it no room, and how often it looks.
constexpr core::Instant kPatienceForRoom = core::kMicrosPerMinute;
constexpr core::Instant kRoomPause = core::kMicrosPerSecond / 4;

const char* budget_reached(core::BudgetScope scope) {
    switch (scope) {
        case core::BudgetScope::Agent:
            return "Das Tagesbudget des Agenten ist aufgebraucht.";
        case core::BudgetScope::Mission:
            return "Das Tagesbudget der Mission ist aufgebraucht.";
        case core::BudgetScope::User:
            return "Dein Tagesbudget auf dem Server ist aufgebraucht.";
        case core::BudgetScope::Total:
            break;
    }
    return "Das Tagesbudget des Servers ist aufgebraucht.";
}

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

// A gateway may have asked another model than the one that it was to ask.
void name_the_answerer(core::ModelReply& reply, const net::HttpResponse& response,
                       const std::string& asked_model) {
    constexpr size_t kMaxName = 200;  // characters
    if (!response.resolved_model.empty())
        reply.model = core::cut_utf8(core::repair_utf8(response.resolved_model), kMaxName);
    if (reply.model.empty())
        reply.model = asked_model;
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
        // In characters: the bytes that continue one do not count.
        span.set("llm.response.length", std::count_if(reply.content.begin(), reply.content.end(),
                                                      [](char c) { return (c & 0xc0) != 0x80; }));
    }
    span.end();
}

// How long a call may take to get its turn, and to be tried again while the service refuses it.
// What a run has paid for is worth waiting for; one that has spent nothing gives its lease back.
constexpr core::Instant kPatienceOfNew = 5 * core::kMicrosPerSecond;
constexpr int kMaxRefusals = 8;

// What a run is told whose call never went out.
core::ProviderError turned_away(const net::CallGate& gate) {
    core::ProviderError error;
    error.kind = gate.is_closed() ? core::ErrorKind::Unreachable : core::ErrorKind::RateLimit;
    error.message =
        gate.is_closed() ? "the service is unavailable" : "the service limits the rate of calls";
    error.of_service = true;
    return error;
}

struct CallWish {
    const std::string& model;
    bool has_paid = false;  // the run has replies that would be lost
};

// One model call with the retries that belong to it, at its turn.
net::Task<core::ModelResult> call_model(RunServices& services, const ClaimedMission& claimed,
                                        CallWish wish, std::string body) {
    const core::WipeAtEnd wipe_body(body);  // may quote what a user encrypted
    const uint64_t caller = std::hash<std::string>()(claimed.user_id + '\n' + claimed.mission_id);
    const int64_t begun = services.loop.now_us();
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
        // Looked up anew: it may be gone after a pause, when settings have changed.
        net::CallGate& gate = services.gates.of_model(wish.model);
        const bool is_new = !wish.has_paid && !last;
        const net::CallGate::Patience left{
            std::max<int64_t>(begun + patience - services.loop.now_us(), 0),
            wish.has_paid ? patience : 0};
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
        SpanScope span(claimed.trace, "planner.complete", core::SpanKind::Client);
        net::HttpRequest request;
        request.url = pg::settings::llm_url() + "/v1/chat/completions";
        request.headers.push_back("Content-Type: application/json");
        if (!services.authorization.empty())
            request.headers.push_back(services.authorization);
        span.add_header(request.headers);
        request.body = body;
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
        // A number that cannot be must not use up a budget, nor may the reply be free: a token is
        // about four bytes.
        if (auto* reply = std::get_if<core::ModelReply>(&result);
            reply != nullptr && reply->usage_is_absurd) {
            reply->usage.prompt = static_cast<int64_t>(body.size() / 4);
            reply->usage.completion = static_cast<int64_t>(response.body.size() / 4);
            reply->usage.total = reply->usage.prompt + reply->usage.completion;
        }
        count_model_request(wish.model, sent, result);
        core::CallReport report = report_of(response);
        auto* error = std::get_if<core::ProviderError>(&result);
        if (error == nullptr) {
            report.end = core::CallEnd::Answered;
            report.tokens = static_cast<double>(std::get<core::ModelReply>(result).usage.total);
        } else {
            report.end = core::call_end(*error, report.end);
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
        // What was paid for is worth waiting for. Where only this run calls, it takes some more
        // failures for the gate to close and say when.
        if (wish.has_paid && has_time && report.end != core::CallEnd::Answered &&
            report.end != core::CallEnd::Refused) {
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

// What a run knows of its budgets and of what its calls use of them.
struct Spending {
    RunBudget budget;
    core::MeasuredPrompt last;
    core::CallNeed need;  // of the next call
};

void estimate_next(const core::PlannerLoop& planner, Spending& spending) {
    spending.need = core::estimated_tokens(planner.request_size(), spending.last,
                                           pg::settings::llm_max_tokens());
}

// The longest reply that the budgets have room for.
int64_t max_tokens(const Spending& spending) {
    return core::max_tokens_of(spending.need, spending.budget.judgement.reply_share,
                               pg::settings::llm_max_tokens());
}

net::Task<void> reserve(RunServices& services, const ClaimedMission& claimed, Spending& spending) {
    DatabaseJobs::Work look = [&] { spending.budget = reserve_tokens(claimed, spending.need); };
    co_await write_until_done(services, claimed, std::move(look));
}

// A run that has paid for replies does not give them up because other calls are under way. It holds
// nothing that those could wait for.
net::Task<void> wait_for_room(RunServices& services, const ClaimedMission& claimed,
                              Spending& spending) {
    const core::Instant end = pg::monotonic_now() + kPatienceForRoom;
    while (spending.budget.judgement.verdict == core::BudgetVerdict::Busy &&
           pg::monotonic_now() < end) {
        co_await services.loop.sleep_for(kRoomPause);
        co_await reserve(services, claimed, spending);
    }
}

PaidReply paid_reply(const core::ModelReply& reply, const std::string& asked_model) {
    return {reply.usage, asked_model, reply.model, reply.service_tier};
}

// Records what a reply cost, and reserves what the next call may cost, if there is one.
net::Task<void> charge(RunServices& services, const ClaimedMission& claimed, PaidReply reply,
                       const core::PlannerLoop& planner, bool goes_on, Spending& spending) {
    estimate_next(planner, spending);
    DatabaseJobs::Work record = [&] {
        add_to_ledger(claimed, reply);
        if (goes_on)
            spending.budget = look_at_budgets(claimed, spending.need);
        add_to_run(claimed, reply, planner.rounds(),
                   goes_on ? tokens_to_reserve(spending.need, spending.budget.judgement) : 0);
        MANA_AI_FAILPOINT("usage.recorded");
    };
    co_await write_until_done(services, claimed, std::move(record), DatabaseJobs::Sharing::Kept);
    MANA_AI_FAILPOINT("usage.committed");
}

std::string ids_of(const ClaimedMission& claimed) {
    return "run=" + claimed.run_id + " user=" + pg::printable(claimed.user_id) +
           " mission=" + pg::printable(claimed.mission_id);
}

// Folds the older messages. That it fails does not matter to the run: its history stays whole.
net::Task<void> compact(RunServices& services, const ClaimedMission& claimed,
                        core::PlannerLoop& planner, RunEvents& events, Spending& spending) {
    const std::string model = pg::settings::compact_model();
    std::string body = planner.compaction_request(model, max_tokens(spending));
    // The run goes on without it, so it is not worth a long wait.
    const CallWish wish{model, false};
    const core::ModelResult answer = co_await call_model(services, claimed, wish, std::move(body));
    if (const auto* error = std::get_if<core::ProviderError>(&answer)) {
        planner.on_failed_compaction();
        pg::log_warning("compaction failed: " + ids_of(claimed) +
                        " error=" + core::name(error->kind));
        co_return;
    }
    const auto& reply = std::get<core::ModelReply>(answer);
    const auto broken = core::failure_in(reply);
    const size_t folded = planner.on_compaction(reply);
    if (folded > 0) {
        events.compacted_turns.push_back(static_cast<int>(folded));
        count_compaction(folded);
    } else {
        pg::log_warning("compaction failed: " + ids_of(claimed) +
                        " error=" + (broken ? core::name(*broken) : "empty"));
    }
    PaidReply paid = paid_reply(reply, model);
    paid.is_of_planner = false;
    co_await charge(services, claimed, std::move(paid), planner, true, spending);
    MANA_AI_FAILPOINT("run.after_compaction");
}

std::vector<core::Reminder> due_reminders(const ClaimedMission& claimed,
                                          const core::PlannerLoop& planner,
                                          const RunBudget& budget) {
    core::LoopState state = planner.state();
    if (claimed.agent) {
        state.agent_name = claimed.agent->name;
        state.cap = claimed.agent->max_tokens_per_day;
        // The newest sum holds this run's replies already, and those of the agent's other runs.
        state.tokens_before_run = std::max<int64_t>(budget.agent_used - state.usage.total, 0);
    }
    return core::reminders(state);
}

// A line for all flagged calls of a run, without their text.
void log_flagged(const ClaimedMission& claimed, const RunEvents& events, core::PolicyMode mode) {
    int flagged = 0;
    std::set<std::string> tools;
    for (const core::JudgedCall& call : events.calls) {
        if (call.flagged) {
            flagged++;
            tools.insert(call.tool);
        }
    }
    if (flagged == 0)
        return;
    std::string list;
    for (const std::string& tool : tools)
        list += (list.empty() ? "" : ",") + pg::printable(tool);
    pg::log_warning(
        "tool calls with injection markers: " + ids_of(claimed) +
        " agent=" + (claimed.agent ? pg::printable(claimed.agent->id) : std::string("-")) +
        " policy_mode=" + name(mode) + " calls=" + std::to_string(flagged) + " tools=" + list);
}

net::Task<std::optional<core::ProviderError>> converse(RunServices& services,
                                                       const ClaimedMission& claimed,
                                                       core::PlannerLoop& planner,
                                                       RunEvents& events) {
    const std::string model = pg::settings::planner_model();
    Spending spending;
    estimate_next(planner, spending);
    spending.budget.agent_used = claimed.agent_tokens_24h;
    // Between the claim and here may lie inputs and research, and what other runs have used.
    const bool claim_holds = claimed.reserved_alone && spending.need.total() <= claimed.reserved &&
                             pg::now() - claimed.started_at <= kClaimIsFresh;
    if (!claim_holds)
        co_await reserve(services, claimed, spending);
    note_first_call(claimed, spending.need,
                    spending.budget.judgement.verdict == core::BudgetVerdict::Short);
    MANA_AI_FAILPOINT("run.reserved");
    size_t counted_calls = 0;
    while (!planner.finished()) {
        if (planner.rounds() > 0)
            co_await wait_for_room(services, claimed, spending);
        if (const auto& judged = spending.budget.judgement;
            judged.verdict != core::BudgetVerdict::Fits) {
            planner.end_early(budget_reached(judged.scope));
            events.out_of_budget = judged;
            count_budget_stop(judged.scope);
            break;
        }
        if (!services.stops.models.contains(pg::settings::compact_model()) &&
            planner.compaction_due(pg::settings::compact_max_context_tokens())) {
            co_await compact(services, claimed, planner, events, spending);
            continue;  // its tokens may have used up the budget
        }
        const std::vector<core::Reminder> reminders =
            due_reminders(claimed, planner, spending.budget);
        count_reminders(reminders);
        for (const core::Reminder& reminder : reminders)
            events.reminders.push_back({reminder.producer, reminder.severity});
        const int64_t longest_reply = max_tokens(spending);
        const bool is_shortened = longest_reply < pg::settings::llm_max_tokens();
        std::string body = planner.request_body(model, reminders, longest_reply);
        spending.last.bytes = planner.request_size();
        if (planner.rounds() == 0)
            observe_due_lag(claimed);
        const CallWish wish{model, planner.rounds() > 0};
        const core::ModelResult answer =
            co_await call_model(services, claimed, wish, std::move(body));
        if (const auto* error = std::get_if<core::ProviderError>(&answer))
            co_return *error;
        const auto& reply = std::get<core::ModelReply>(answer);
        if (const auto kind = core::failure_in(reply)) {
            planner.on_broken_reply(reply);
            PaidReply paid = paid_reply(reply, model);
            co_await charge(services, claimed, std::move(paid), planner, false, spending);
            core::ProviderError broken;
            broken.kind = *kind;
            if (*kind == core::ErrorKind::Truncated && is_shortened) {
                // Nothing is wrong with the mission: its budget had no room for more.
                const core::BudgetScope scope = spending.budget.judgement.scope;
                planner.end_early(budget_reached(scope));
                events.out_of_budget = {core::BudgetVerdict::Short, scope, 0};
                count_budget_stop(scope);
                break;
            }
            broken.message = *kind == core::ErrorKind::Blocked
                                 ? "a filter of the provider has held back the reply"
                                 : "the reply was cut off at its greatest length";
            co_return broken;
        }
        spending.last.tokens = reply.usage.prompt;
        planner.on_reply(reply, pg::settings::policy_mode());
        counted_calls = count_tool_calls(planner, counted_calls);
        events.calls.assign(planner.calls().begin(), planner.calls().end());
        PaidReply paid = paid_reply(reply, model);
        co_await charge(services, claimed, std::move(paid), planner, !planner.finished(), spending);
    }
    co_return std::nullopt;
}

}  // namespace

net::Task<std::optional<core::ProviderError>> plan_mission(RunServices& services,
                                                           const ClaimedMission& claimed,
                                                           core::PlannerLoop& planner,
                                                           RunEvents& events) {
    std::optional<core::ProviderError> error;
    std::exception_ptr failure;
    try {
        error = co_await converse(services, claimed, planner, events);
    } catch (...) {
        failure = std::current_exception();
    }
    log_flagged(claimed, events, pg::settings::policy_mode());
    if (failure)
        std::rethrow_exception(failure);
    co_return error;
}

}  // namespace mana_ai
