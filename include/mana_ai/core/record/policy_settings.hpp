// The settings for tool calls and steps that apply to all agents.
#pragma once

namespace mana_ai::core {

// What happens to tool calls with an injection marker: the setting mana_ai.policy_mode.
// docs/contract/tick.md, Injection markers.
enum class PolicyMode {
    Off,      // no check
    LogOnly,  // counted and logged
    Enforce,  // in addition, the call is refused
};

// The words of the setting: "off", "log-only", "enforce".
constexpr const char* name(PolicyMode mode) noexcept {
    switch (mode) {
        case PolicyMode::Off:
            return "off";
        case PolicyMode::LogOnly:
            return "log-only";
        case PolicyMode::Enforce:
            break;
    }
    return "enforce";
}

// What devices may do with the steps of a new plan: the setting mana_ai.step_status.
// docs/contract/data.md, Write-back.
enum class StepStatus {
    Planned,   // carry them out
    Staged,    // leave them alone until the user has agreed
    ByPolicy,  // planned where the agent's policy says auto, else staged
};

// The words of the setting: "planned", "staged", "by-policy".
constexpr const char* name(StepStatus status) noexcept {
    switch (status) {
        case StepStatus::Planned:
            return "planned";
        case StepStatus::Staged:
            return "staged";
        case StepStatus::ByPolicy:
            break;
    }
    return "by-policy";
}

}  // namespace mana_ai::core
