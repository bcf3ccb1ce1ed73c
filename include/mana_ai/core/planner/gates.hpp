// What is checked before a mission may spend anything. docs/contract/tick.md, Gates.
#pragma once

#include <cstdint>
#include <optional>

#include "mana_ai/core/planner/budget.hpp"
#include "mana_ai/core/record/records.hpp"

namespace mana_ai::core {

enum class GateDecision {
    Ran,
    SkippedArchived,
    SkippedPaused,
    SkippedConcurrency,
    SkippedBudget,  // the agent's
    SkippedMissionBudget,
    SkippedUserBudget,
    SkippedTotalBudget,
    SkippedEncrypted,
    SkippedUnreviewed,
    SkippedBrowserRun,  // the user's own browser plans it right now
    SkippedResearch,
    SkippedAgentMissing,
    SkippedMemberHold,  // another member of the mission's space has paused or deleted it
    SkippedTooLarge,    // the record of the mission or its agent
    SkippedUnreadable,  // likewise
    SkippedClockAhead,  // a plan could not win, or not be written at all
    SkippedStopped,     // an operator has stopped the user, the agent or everything
    SkippedUnchanged,   // decided by the run, after the gates: see plan_basis.hpp
};

// "ran", "skipped-archived", …: a static string, used in runs.decision and in metrics.
const char* name(GateDecision decision) noexcept;

// Decisions that only another record, other settings or time can change.
bool is_about_records(GateDecision decision) noexcept;

struct GateInput {
    const Mission& mission;
    const Agent* agent = nullptr;  // null = runs without agent
    bool agent_missing = false;    // see is_agent_missing()
    bool member_hold = false;
    int agent_running = 0;  // missions of this agent that the tick already started
    std::int64_t agent_tokens_24h = 0;
    std::optional<BudgetScope> closed_budget =
        {};                          // by reservations, or a budget other than the agent's
    int max_unreviewed = 3;          // 0 = no limit
    bool ciphertext_opened = false;  // a grant opened every encrypted text of the mission
    bool runs_in_browser = false;
    bool research_pending = false;
    bool record_too_large = false;
    bool record_unreadable = false;
    bool clock_ahead = false;
    bool stopped = false;
};

// The first closed gate in the contract's order. An operator's stop comes before all gates, then
// problems of the records, then a missing agent, without which the other gates cannot be checked.
GateDecision judge_gates(const GateInput& input) noexcept;

// The decision for a mission that a budget holds back.
GateDecision decision_of(BudgetScope scope) noexcept;

// Whether the agent's rolling 24 h budget is used up.
bool is_budget_used_up(const Agent& agent, std::int64_t tokens_24h) noexcept;

}  // namespace mana_ai::core
