#include "mana_ai/extension/lease/run_metrics.hpp"

#include <algorithm>

#include "mana_ai/core/service/error_kind.hpp"
#include "mana_ai/core/text/json.hpp"
#include "mana_ai/pg/metrics.hpp"
#include "mana_ai/pg/time.hpp"

namespace mana_ai {

using core::Metric;

void count_model_request(std::string_view model, std::chrono::steady_clock::time_point sent,
                         const core::ModelResult& result) {
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - sent;
    pg::metrics::observe(Metric::PlannerRequestDuration, took.count());
    std::optional<core::ErrorKind> kind;
    if (const auto* error = std::get_if<core::ProviderError>(&result))
        kind = error->kind;
    else
        kind = core::failure_in(std::get<core::ModelReply>(result));
    if (kind)
        pg::metrics::count(Metric::ProviderErrors, {core::provider_of(model), core::name(*kind)});
}

size_t count_tool_calls(const core::PlannerLoop& planner, size_t counted) {
    const auto& calls = planner.calls();
    for (; counted < calls.size(); counted++) {
        const core::JudgedCall& call = calls[counted];
        pg::metrics::count(Metric::ToolCalls, {call.tool, call.policy, call.outcome});
        if (call.flagged)
            pg::metrics::count(Metric::InjectionMarkers, {call.tool});
    }
    return counted;
}

void count_reminders(const std::vector<core::Reminder>& reminders) {
    for (const core::Reminder& reminder : reminders)
        pg::metrics::count(Metric::RemindersEmitted,
                           {reminder.producer, core::name(reminder.severity)});
}

void count_compaction(size_t folded) {
    pg::metrics::count(Metric::CompactionsTriggered);
    pg::metrics::observe(Metric::CompactedTurns, static_cast<double>(folded));
}

void observe_due_lag(const ClaimedMission& claimed) {
    if (claimed.runnable_since)
        pg::metrics::observe(Metric::DueLag,
                             static_cast<double>(pg::now() - *claimed.runnable_since) /
                                 static_cast<double>(core::kMicrosPerSecond));
}

std::string_view label_of_agent(const ClaimedMission& claimed) {
    const bool has_agent = claimed.agent && !claimed.agent->id.empty();
    return has_agent ? std::string_view(claimed.agent->id) : core::kLegacyAgentId;
}

namespace {

uint64_t at_least_0(int64_t amount) {
    return static_cast<uint64_t>(std::max<int64_t>(amount, 0));
}

}  // namespace

void count_tokens(std::string_view agent_label, int64_t tokens) {
    pg::metrics::count_at_commit(Metric::TokensUsed, {agent_label}, at_least_0(tokens));
}

void count_cost(std::string_view agent_label, int64_t millionths, std::string_view currency) {
    pg::metrics::count_at_commit(Metric::Cost, {agent_label, currency}, at_least_0(millionths));
}

void count_unpriced(std::string_view model, int64_t tokens) {
    pg::metrics::count_at_commit(Metric::TokensUnpriced, {model}, at_least_0(tokens));
}

void count_budget_stop(core::BudgetScope scope) {
    pg::metrics::count(Metric::BudgetStops, {core::name(scope)});
}

bool is_failed_plan(const RunResult& result) {
    return result.outcome == RunOutcome::Failed &&
           core::error_kind_from_name(result.error_kind).has_value();
}

void count_outcome(const RunResult& result) {
    count_outcomes(name(result.outcome), 1);
    if (result.outcome == RunOutcome::Planned)
        pg::metrics::count_at_commit(Metric::PlansWrittenBack);
    if (result.outcome == RunOutcome::Planned || result.outcome == RunOutcome::Discarded)
        pg::metrics::count_at_commit(Metric::PlansProduced);
    if (result.outcome != RunOutcome::Failed)
        return;
    pg::metrics::count_at_commit(Metric::MissionErrors);
    if (is_failed_plan(result))
        pg::metrics::count_at_commit(Metric::ParseFailures);
}

void count_decision(const ClaimedMission& claimed, const RunResult& result) {
    if (claimed.agent)
        pg::metrics::count_at_commit(Metric::AgentDecisions, {result.decision});
}

namespace {

// Records are users' data: an unknown status must not become a label.
std::string_view label_of_status(std::string_view status) noexcept {
    for (const std::string_view known : {"approved", "failed", "skipped", "rejected"})
        if (status == known)
            return known;
    return "open";
}

std::string_view label_of_tool(std::string_view name, const core::ToolCatalog& catalog) noexcept {
    const auto& tools = catalog.tools();
    const auto tool = std::find_if(tools.begin(), tools.end(),
                                   [&](const core::Tool& each) { return each.name == name; });
    return tool != tools.end() ? std::string_view(tool->name) : "unknown";
}

}  // namespace

void count_last_plan(const ClaimedMission& claimed, const core::ToolCatalog& catalog) {
    const core::Json& iterations = claimed.mission.iterations;
    const auto last = std::find_if(iterations.rbegin(), iterations.rend(), [](const auto& each) {
        return core::string_or(each, "source", "") == "server" && each.contains("plan") &&
               each.at("plan").is_array();
    });
    if (last == iterations.rend())
        return;
    for (const core::Json& step : last->at("plan")) {
        if (!step.is_object())
            continue;
        pg::metrics::count_at_commit(Metric::ToolOutcomes,
                                     {label_of_tool(core::string_or(step, "toolName", ""), catalog),
                                      label_of_status(core::string_or(step, "status", ""))});
    }
}

void count_outcomes(std::string_view outcome, int64_t runs) {
    pg::metrics::count_at_commit(Metric::MissionOutcomes, {outcome},
                                 static_cast<uint64_t>(std::max<int64_t>(runs, 0)));
}

}  // namespace mana_ai
