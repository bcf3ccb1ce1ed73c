// How a plan differs from another one (docs/lineage.md, What another model would have planned).
#pragma once

#include <string>
#include <vector>

#include "mana_ai/core/text/json.hpp"

namespace mana_ai::core {

struct ComparedStep {
    std::string tool;
    Json params;
    bool was_approved = false;  // the user's device has carried it out
    bool was_decided = false;   // the device has reported anything about it
};

// The steps of an iteration in a mission's record; what has another form is left out.
std::vector<ComparedStep> steps_of_iteration(const Json& iteration);

// Two steps are the same if they call the same tool with parameters of which this is the same:
// without members that are null or an empty text, and with blanks in texts reduced to single ones.
Json canonical_params(const Json& params);

// Each step has at most one counterpart in the other plan.
struct PlanDifference {
    std::vector<ComparedStep> same;     // of both
    std::vector<ComparedStep> missing;  // of the first plan only
    std::vector<ComparedStep> added;    // of the second plan only
    int same_tool = 0;                  // of `missing`: in `added` there is one of the same tool
    // Of the first plan: steps that were approved, those of them that the second one has too, and
    // the latter with those of which it has the tool.
    int approved = 0;
    int approved_same = 0;
    int approved_same_tool = 0;
};
PlanDifference compare_plans(const std::vector<ComparedStep>& first,
                             const std::vector<ComparedStep>& second);

// [{tool, params}], and the inverse.
Json to_json(const std::vector<ComparedStep>& steps);
std::vector<ComparedStep> steps_of_json(const Json& list);

}  // namespace mana_ai::core
