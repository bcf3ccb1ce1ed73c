// What an agent may do with a tool. docs/contract/data.md, Agent record.
#pragma once

#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>

#include "mana_ai/core/text/json.hpp"

namespace mana_ai::core {

enum class Decision {
    Auto,     // in a policy: may run without asking; of a tool: it reads, and runs on devices only
    Propose,  // becomes a plan step
    Deny,     // must not be offered
};

// "auto", "propose", "deny"; a static string.
const char* name(Decision decision) noexcept;

// The inverse; nullopt for any other text.
std::optional<Decision> decision_from_name(std::string_view text) noexcept;

// What happens to tool calls that carry an injection marker: the setting mana_ai.policy_mode.
// docs/contract/tick.md, Injection markers.
enum class PolicyMode {
    Off,      // they are not looked for
    LogOnly,  // counted and logged
    Enforce,  // besides, the call is refused
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

struct Policy {
    using Decisions = std::map<std::string, Decision, std::less<>>;

    Decisions tools;
    Decisions defaults_by_module;
    Decision default_for_ai = Decision::Propose;
};

// Reads an agent's `policy`. Whatever is missing, of a wrong type or no known decision is left
// out, so that the next level decides; without any level that is `propose`, as for clients.
Policy parse_policy(const Json& policy);

// The tool's own entry, else its module's, else the default.
Decision decide(const Policy& policy, std::string_view tool, std::string_view module);

}  // namespace mana_ai::core
