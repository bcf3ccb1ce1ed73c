// Plan steps: tool calls that the model asked for and that the user's device executes later.
#pragma once

#include <cstddef>
#include <string>

#include "mana_ai/core/planner/tool_catalog.hpp"
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

// A step with its summary: the first sentence of the tool's description, which names the action,
// and the argument that tells most about this call ("Aufgabe anlegen: Milch kaufen"). That is the
// first of: required free text, optional free text, a choice, a number, an id.
PlanStep make_plan_step(const Tool& tool, Json params);

}  // namespace mana_ai::core
