// Whether a tool call of the model may become a plan step. docs/contract/tick.md, Planner loop.
#pragma once

#include <string>
#include <vector>

#include "mana_ai/core/planner/plan.hpp"
#include "mana_ai/core/planner/tool_catalog.hpp"
#include "mana_ai/core/service/model_wire.hpp"
#include "mana_ai/core/text/json.hpp"

namespace mana_ai::core {

struct ToolVerdict {
    bool accepted = false;
    // German, for the model: what was done, or everything that is wrong, so that one more call can
    // correct it.
    std::string message;
    // Accepted: the arguments that go into the step. Without nulls of optional parameters (models
    // write them for "not given") and without U+0000, which jsonb cannot hold.
    Json params;
    // Rejected: the first reason, for metrics: "not-offered", "bad-json", "missing-parameter",
    // "wrong-type", "not-in-enum", "out-of-range", "plan-full", "duplicate". A static string, empty
    // when accepted.
    const char* reject_reason = "";
};

// Judges one call against what was offered and the plan so far. Never throws on any arguments.
//
// - Blank arguments count as `{}`: several servers send an empty text for calls without arguments.
// - Required texts must not be blank, required arrays and objects not empty.
// - Types must fit exactly: "5" is not a number and "true" not a boolean, and the message says so.
// - Parameters that the tool does not have are dropped, and the message names them. They are not a
//   reason to reject (the contract lists those), but only what the catalog describes may reach the
//   user's device.
ToolVerdict judge_tool_call(const OfferedTools& offered, const ToolCallRequest& call,
                            const std::vector<PlanStep>& plan_so_far);

// The answer as the content of a tool message: {"success":…,"message":…}.
std::string tool_answer(const ToolVerdict& verdict);

}  // namespace mana_ai::core
