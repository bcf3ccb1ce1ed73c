#include "mana_ai/extension/run/planning.hpp"

#include <algorithm>
#include <functional>
#include <set>

#include "mana_ai/core/planner/reminders.hpp"
#include "mana_ai/extension/lease/durable_step.hpp"
#include "mana_ai/extension/lease/run_metrics.hpp"
#include "mana_ai/extension/lease/run_record.hpp"
#include "mana_ai/extension/run/budgets.hpp"
#include "mana_ai/extension/run/model_call.hpp"
#include "mana_ai/pg/failpoint.hpp"
#include "mana_ai/pg/log.hpp"
#include "mana_ai/pg/settings.hpp"
#include "mana_ai/pg/time.hpp"

namespace mana_ai {

namespace {

constexpr core::Instant kClaimIsFresh = core::kMicrosPerSecond / 20;

// How long a run that has paid for replies waits for other calls whose reservations leave it no
// room, and how often it checks.
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

// A run's budgets, and what its calls use of them.
struct Spending {
    RunBudget budget;
    core::MeasuredPrompt last;
    core::CallNeed need;  // of the next call
};

void estimate_next(const ClaimedMission& claimed, const core::PlannerLoop& planner,
                   Spending& spending) {
    spending.need = with_known_length(core::estimated_tokens(planner.request_size(), spending.last,
                                                             pg::settings::llm_max_tokens()),
                                      claimed.cut_reply_length);
}

// Providers have their own maximum length of a reply, which may be shorter. If the provider does
// not report tokens, the cut counts as the budget's.
bool is_cut_off_by_budget(const core::ModelReply& reply, int64_t longest_reply) {
    return longest_reply < pg::settings::llm_max_tokens() &&
           (reply.usage.completion <= 0 || reply.usage.completion >= longest_reply / 10 * 9);
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

// A run that has paid for replies does not give them up because of other calls in flight. It holds
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

std::string prompt_cache_key(const ClaimedMission& claimed) {
    if (!pg::settings::prompt_cache_key())
        return {};
    return prompt_cache_key_of(claimed.user_id, claimed.agent ? claimed.agent->id : std::string());
}

int64_t tokens_before_run(const core::PlannerLoop& planner, const RunBudget& budget) {
    // The newest sum already includes this run's replies, and those of the agent's other runs.
    return std::max<int64_t>(budget.agent_used - planner.usage().total, 0);
}

SentRequest request_of(const char* purpose, const core::PlannerLoop& planner,
                       const std::string& model, const std::string& tier, int64_t longest_reply) {
    SentRequest request;
    request.purpose = purpose;
    request.round = planner.rounds() + 1;
    request.model = model;
    request.service_tier = tier;
    request.max_tokens = longest_reply;
    return request;
}

// Records the cost of a reply and its request, and reserves the maximum cost of the next call, if
// there is one.
net::Task<void> charge(RunServices& services, const ClaimedMission& claimed, PaidReply reply,
                       const core::PlannerLoop& planner, Lineage& lineage, bool goes_on,
                       Spending& spending) {
    estimate_next(claimed, planner, spending);
    DatabaseJobs::Work record = [&] {
        write_lineage(claimed, lineage);
        add_to_ledger(claimed, reply);
        if (goes_on)
            spending.budget = look_at_budgets(claimed, spending.need);
        add_to_run(claimed, reply, planner.rounds(),
                   goes_on ? tokens_to_reserve(spending.need, spending.budget.judgement) : 0);
        MANA_AI_FAILPOINT("usage.recorded");
    };
    std::string paid = "model=" + pg::printable(reply.model) +
                       " prompt_tokens=" + std::to_string(reply.usage.prompt) +
                       " cached_tokens=" + std::to_string(reply.usage.cached) +
                       " completion_tokens=" + std::to_string(reply.usage.completion) +
                       " tokens=" + std::to_string(reply.usage.total);
    co_await record_paid(services, claimed, std::move(record), std::move(paid));
    lineage.requests_on_disk = lineage.requests.size();
    MANA_AI_FAILPOINT("usage.committed");
}

std::string ids_of(const ClaimedMission& claimed) {
    return "run=" + claimed.run_id + " user=" + pg::printable(claimed.user_id) +
           " mission=" + pg::printable(claimed.mission_id);
}

// Replaces the older messages by a summary. If it fails, the run continues with its whole history.
net::Task<void> compact(RunServices& services, const ClaimedMission& claimed,
                        core::PlannerLoop& planner, RunEvents& events, ServiceTier& tier,
                        Spending& spending) {
    const std::string model = pg::settings::compact_model();
    const int64_t longest_reply = max_tokens(spending);
    const BodyOf body_of = [&](const std::string& asked, const std::string& at_tier) {
        core::ChatBody body;
        body.text = planner.compaction_request(asked, longest_reply, {at_tier, {}});
        body.of_run = body.text.size();
        SentRequest request = request_of("compaction", planner, asked, at_tier, longest_reply);
        note_request(events.lineage, std::move(request), body);
        return body;
    };
    // The run can continue without it, so it is not worth a long wait.
    const CallWish wish{model, tier};
    const core::ModelResult answer = co_await call_model(services, claimed, wish, body_of);
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
    co_await charge(services, claimed, std::move(paid), planner, events.lineage, true, spending);
    MANA_AI_FAILPOINT("run.after_compaction");
}

std::vector<core::Reminder> due_reminders(const ClaimedMission& claimed,
                                          const core::PlannerLoop& planner,
                                          const RunBudget& budget) {
    core::LoopState state = planner.state();
    if (claimed.agent) {
        state.agent_name = claimed.agent->name;
        state.cap = claimed.agent->max_tokens_per_day;
        state.tokens_before_run = tokens_before_run(planner, budget);
    }
    return core::reminders(state);
}

// One line for all flagged calls of a run, without their text.
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
    PlannerModels models = planner_models();
    ServiceTier tier{claimed.service_tier.value_or(pg::settings::service_tier())};
    const std::string cache_key = prompt_cache_key(claimed);
    Spending spending;
    estimate_next(claimed, planner, spending);
    spending.budget.agent_used = claimed.agent_tokens_24h;
    // Since the claim, inputs and research may have taken time, and other runs have used budgets.
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
            co_await compact(services, claimed, planner, events, tier, spending);
            continue;  // its tokens may have used up the budget
        }
        const std::vector<core::Reminder> reminders =
            due_reminders(claimed, planner, spending.budget);
        count_reminders(reminders);
        for (const core::Reminder& reminder : reminders)
            events.reminders.push_back({reminder.producer, reminder.severity});
        const int64_t longest_reply = max_tokens(spending);
        const BodyOf body_of = [&](const std::string& model, const std::string& at_tier) {
            events.asked_model = model;
            core::ChatBody body =
                planner.request_body(model, reminders, longest_reply, {at_tier, cache_key});
            SentRequest request = request_of("plan", planner, model, at_tier, longest_reply);
            request.has_cache_key = !cache_key.empty();
            request.agent_tokens = tokens_before_run(planner, spending.budget);
            note_request(events.lineage, std::move(request), body);
            return body;
        };
        spending.last.bytes = planner.request_size();
        if (planner.rounds() == 0)
            observe_due_lag(claimed);
        const core::ModelResult answer =
            co_await call_planner(services, claimed, models, tier, planner.rounds() > 0, body_of);
        if (const auto* error = std::get_if<core::ProviderError>(&answer))
            co_return *error;
        const auto& reply = std::get<core::ModelReply>(answer);
        if (const auto kind = core::failure_in(reply)) {
            planner.on_broken_reply(reply);
            PaidReply paid = paid_reply(reply, models.name());
            co_await charge(services, claimed, std::move(paid), planner, events.lineage, false,
                            spending);
            core::ProviderError broken;
            broken.kind = *kind;
            if (*kind == core::ErrorKind::Truncated && is_cut_off_by_budget(reply, longest_reply)) {
                // Not a fault of the mission: its budget had no room for more.
                note_cut_off_reply(claimed, spending.need);
                DatabaseJobs::Work store = [&] { store_cut_off_reply(claimed, longest_reply); };
                co_await write_until_done(services, claimed, std::move(store));
                const core::BudgetScope scope = spending.budget.judgement.scope;
                planner.end_early(budget_reached(scope));
                events.out_of_budget = {core::BudgetVerdict::Short, scope, 0};
                count_budget_stop(scope);
                break;
            }
            broken.message = *kind == core::ErrorKind::Blocked
                                 ? "a filter of the provider has held back the reply"
                             : *kind == core::ErrorKind::Truncated
                                 ? "the reply was cut off at its greatest length"
                                 : "the provider has failed in the middle of the reply";
            co_return broken;
        }
        spending.last.tokens = reply.usage.prompt;
        planner.on_reply(reply, pg::settings::policy_mode());
        counted_calls = count_tool_calls(planner, counted_calls);
        events.calls.assign(planner.calls().begin(), planner.calls().end());
        PaidReply paid = paid_reply(reply, models.name());
        co_await charge(services, claimed, std::move(paid), planner, events.lineage,
                        !planner.finished(), spending);
    }
    if (!events.out_of_budget && claimed.cut_reply_length > 0) {
        DatabaseJobs::Work forget = [&] { store_cut_off_reply(claimed, std::nullopt); };
        co_await write_until_done(services, claimed, std::move(forget));
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
