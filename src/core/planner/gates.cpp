#include "mana_ai/core/planner/gates.hpp"

namespace mana_ai::core {

const char* name(GateDecision decision) noexcept {
    switch (decision) {
        case GateDecision::Ran:
            return "ran";
        case GateDecision::SkippedArchived:
            return "skipped-archived";
        case GateDecision::SkippedPaused:
            return "skipped-paused";
        case GateDecision::SkippedConcurrency:
            return "skipped-concurrency";
        case GateDecision::SkippedBudget:
            return "skipped-budget";
        case GateDecision::SkippedMissionBudget:
            return "skipped-mission-budget";
        case GateDecision::SkippedUserBudget:
            return "skipped-user-budget";
        case GateDecision::SkippedTotalBudget:
            return "skipped-total-budget";
        case GateDecision::SkippedEncrypted:
            return "skipped-encrypted";
        case GateDecision::SkippedUnreviewed:
            return "skipped-unreviewed";
        case GateDecision::SkippedResearch:
            return "skipped-research";
        case GateDecision::SkippedAgentMissing:
            return "skipped-agent-missing";
        case GateDecision::SkippedMemberHold:
            return "skipped-member-hold";
        case GateDecision::SkippedTooLarge:
            return "skipped-too-large";
        case GateDecision::SkippedUnreadable:
            return "skipped-unreadable";
        case GateDecision::SkippedClockAhead:
            return "skipped-clock-ahead";
        case GateDecision::SkippedBrowserRun:
            return "skipped-browser-run";
        case GateDecision::SkippedStopped:
            return "skipped-stopped";
        case GateDecision::SkippedUnchanged:
            break;
    }
    return "skipped-unchanged";
}

bool is_about_records(GateDecision decision) noexcept {
    return decision == GateDecision::SkippedTooLarge ||
           decision == GateDecision::SkippedUnreadable ||
           decision == GateDecision::SkippedClockAhead;
}

GateDecision decision_of(BudgetScope scope) noexcept {
    switch (scope) {
        case BudgetScope::Agent:
            return GateDecision::SkippedBudget;
        case BudgetScope::Mission:
            return GateDecision::SkippedMissionBudget;
        case BudgetScope::User:
            return GateDecision::SkippedUserBudget;
        case BudgetScope::Total:
            break;
    }
    return GateDecision::SkippedTotalBudget;
}

bool is_budget_used_up(const Agent& agent, std::int64_t tokens_24h) noexcept {
    return agent.max_tokens_per_day && tokens_24h >= *agent.max_tokens_per_day;
}

GateDecision judge_gates(const GateInput& input) noexcept {
    if (input.stopped) {
        return GateDecision::SkippedStopped;
    }
    if (input.record_too_large) {
        return GateDecision::SkippedTooLarge;
    }
    if (input.record_unreadable) {
        return GateDecision::SkippedUnreadable;
    }
    if (input.clock_ahead) {
        return GateDecision::SkippedClockAhead;
    }
    if (input.member_hold) {
        return GateDecision::SkippedMemberHold;
    }
    if (input.agent_missing) {
        return GateDecision::SkippedAgentMissing;
    }
    if (input.agent != nullptr) {
        const Agent& agent = *input.agent;
        if (agent.state == "archived") {
            return GateDecision::SkippedArchived;
        }
        if (agent.state == "paused") {
            return GateDecision::SkippedPaused;
        }
        if (input.agent_running >= agent.max_concurrent_missions) {
            return GateDecision::SkippedConcurrency;
        }
        if (is_budget_used_up(agent, input.agent_tokens_24h)) {
            return GateDecision::SkippedBudget;
        }
    }
    if (input.closed_budget) {
        return decision_of(*input.closed_budget);
    }
    if (input.mission.has_ciphertext() && !input.ciphertext_opened) {
        return GateDecision::SkippedEncrypted;
    }
    if (input.max_unreviewed > 0 && input.mission.unreviewed >= input.max_unreviewed) {
        return GateDecision::SkippedUnreviewed;
    }
    if (input.runs_in_browser) {
        return GateDecision::SkippedBrowserRun;
    }
    return input.research_pending ? GateDecision::SkippedResearch : GateDecision::Ran;
}

}  // namespace mana_ai::core
