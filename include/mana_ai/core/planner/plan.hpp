// Makes plan steps of the tool calls that the model asked for.
#pragma once

#include "mana_ai/core/planner/tool_catalog.hpp"
#include "mana_ai/core/record/plan_step.hpp"
#include "mana_ai/core/text/json.hpp"

namespace mana_ai::core {

// A step with its summary: the first sentence of the tool's description, which names the action,
// and the argument that tells most about this call ("Aufgabe anlegen: Milch kaufen"). That is the
// first of: required free text, optional free text, a choice, a number, an id.
PlanStep make_plan_step(const Tool& tool, Json params);

}  // namespace mana_ai::core
