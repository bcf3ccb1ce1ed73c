// The metrics of mission runs (docs/contract/interface.md, Metrics). Functions that say "at commit"
// are called inside the transaction that records the same in a table, so that both always agree.
#pragma once

#include <chrono>
#include <cstddef>
#include <string_view>
#include <vector>

#include "mana_ai/core/planner/planner_loop.hpp"
#include "mana_ai/core/planner/reminders.hpp"
#include "mana_ai/core/service/model_wire.hpp"
#include "mana_ai/extension/lease/claimed_mission.hpp"

namespace mana_ai {

// One attempt at a model request that began at `sent`; every request to a model is counted here.
void count_model_request(std::string_view model, std::chrono::steady_clock::time_point sent,
                         const core::ModelResult& result);

// Calls that were judged since the first `counted` ones. Returns how many there are now.
size_t count_tool_calls(const core::PlannerLoop& planner, size_t counted);

// Reminders in one request; messages that a compaction has replaced.
void count_reminders(const std::vector<core::Reminder>& reminders);
void count_compaction(size_t folded);

// Called when the first request of a run is sent.
void observe_due_lag(const ClaimedMission& claimed);

// Called when a budget holds a mission back or ends its plan early.
void count_budget_stop(core::BudgetScope scope);

// Whether the run failed because the model service did, or its reply could not be read.
bool is_failed_plan(const RunResult& result);

// The label agent_id of what a mission uses, and of what operators ask of past runs.
std::string_view label_of_agent(const ClaimedMission& claimed);
inline constexpr std::string_view kLabelOfWhatIf = "what-if";

// At commit: tokens of one reply, what it cost if that is known, and how `runs` runs ended.
void count_tokens(std::string_view agent_label, int64_t tokens);
void count_cost(std::string_view agent_label, int64_t millionths, std::string_view currency);
void count_unpriced(std::string_view model, int64_t tokens);
void count_outcome(const RunResult& result);
void count_decision(const ClaimedMission& claimed, const RunResult& result);
void count_outcomes(std::string_view outcome, int64_t runs);

// At commit of a new plan: the results of the previous plan's steps. So each plan counts once, when
// the next one is written.
void count_last_plan(const ClaimedMission& claimed, const core::ToolCatalog& catalog);

}  // namespace mana_ai
