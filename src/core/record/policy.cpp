#include "mana_ai/core/record/policy.hpp"

namespace mana_ai::core {

namespace {

Policy::Decisions parse_decisions(const Json& policy, const char* key) {
    Policy::Decisions decisions;
    const auto member = policy.find(key);
    if (member == policy.end() || !member->is_object()) {
        return decisions;
    }
    for (const auto& [entry, value] : member->items()) {
        if (!value.is_string()) {
            continue;
        }
        if (const auto decision = decision_from_name(value.get_ref<const std::string&>())) {
            decisions.emplace(entry, *decision);
        }
    }
    return decisions;
}

}  // namespace

const char* name(Decision decision) noexcept {
    switch (decision) {
        case Decision::Auto:
            return "auto";
        case Decision::Propose:
            return "propose";
        case Decision::Deny:
            break;
    }
    return "deny";
}

std::optional<Decision> decision_from_name(std::string_view text) noexcept {
    for (const Decision decision : {Decision::Auto, Decision::Propose, Decision::Deny}) {
        if (text == name(decision)) {
            return decision;
        }
    }
    return std::nullopt;
}

Policy parse_policy(const Json& policy) {
    Policy parsed;
    if (!policy.is_object()) {
        return parsed;
    }
    parsed.tools = parse_decisions(policy, "tools");
    parsed.defaults_by_module = parse_decisions(policy, "defaultsByModule");
    parsed.default_for_ai =
        decision_from_name(string_or(policy, "defaultForAi", "")).value_or(parsed.default_for_ai);
    return parsed;
}

Decision decide(const Policy& policy, std::string_view tool, std::string_view module) {
    if (const auto own = policy.tools.find(tool); own != policy.tools.end()) {
        return own->second;
    }
    if (const auto of_module = policy.defaults_by_module.find(module);
        of_module != policy.defaults_by_module.end()) {
        return of_module->second;
    }
    return policy.default_for_ai;
}

}  // namespace mana_ai::core
