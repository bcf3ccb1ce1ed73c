// Plan steps: tool calls that the model asked for and that the user's device executes later.
#pragma once

#include <cstddef>
#include <string>

#include "mana_ai/core/text/json.hpp"

namespace mana_ai::core {

// docs/contract/tick.md, Planner loop.
inline constexpr std::size_t kMaxPlanSteps = 25;

// The longest summary of a step, in characters.
inline constexpr std::size_t kMaxStepSummary = 160;

struct PlanStep {
    std::string summary;  // German, one line, never empty
    std::string tool_name;
    Json params;              // an object
    std::string module = {};  // of the tool
};

}  // namespace mana_ai::core
