// What an agent may do with a tool. docs/contract/data.md, Agent record.
#pragma once

#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>

#include "mana_ai/core/record/policy_settings.hpp"
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

struct Policy {
    using Decisions = std::map<std::string, Decision, std::less<>>;

    Decisions tools;
    Decisions defaults_by_module;
    Decision default_for_ai = Decision::Propose;
};

// Reads an agent's `policy`. Entries that are missing, of a wrong type or not a known decision are
// left out, so that the next level decides; without any level that is `propose`, as in clients.
Policy parse_policy(const Json& policy);

// The tool's own entry, else its module's, else the default.
Decision decide(const Policy& policy, std::string_view tool, std::string_view module);

}  // namespace mana_ai::core
