#include "mana_ai/core/planner/plan.hpp"

#include <string_view>
#include <utility>

#include "mana_ai/core/text/utf8.hpp"
#include "mana_ai/core/text/words.hpp"

namespace mana_ai::core {

namespace {

// Ids are not useful for a reader: "taskId", "discovered_event_id", "id".
bool names_an_id(std::string_view parameter) noexcept {
    return parameter == "id" || parameter.ends_with("Id") || parameter.ends_with("_id");
}

// How well a parameter distinguishes calls of a tool; lower is better.
int rank(const ToolParameter& parameter) noexcept {
    if (names_an_id(parameter.name)) {
        return 4;
    }
    if (parameter.type == "string" && parameter.enum_values.empty()) {
        return parameter.required ? 0 : 1;
    }
    if (parameter.type == "string") {
        return 2;
    }
    return parameter.type == "number" || parameter.type == "integer" ? 3 : 5;
}

constexpr int kWorstShownRank = 4;  // objects, arrays and booleans are not shown

std::string shown(const Json& value) {
    if (value.is_string()) {
        // Cut first: a page of HTML need not be processed for one line.
        return one_line(cut_utf8(value.get_ref<const std::string&>(), 2 * kMaxStepSummary));
    }
    return value.is_number() ? dump_json(value) : std::string();
}

std::string main_argument(const Tool& tool, const Json& params) {
    std::string best;
    int best_rank = kWorstShownRank + 1;
    for (const ToolParameter& parameter : tool.parameters) {
        const int candidate = rank(parameter);
        const auto value = params.find(parameter.name);
        if (candidate >= best_rank || value == params.end()) {
            continue;
        }
        if (std::string text = shown(*value); !text.empty()) {
            best = std::move(text);
            best_rank = candidate;
        }
    }
    return best;
}

std::string action_of(const Tool& tool) {
    const std::string_view description = tool.description;
    std::string action = one_line(description.substr(0, description.find(". ")));
    while (action.ends_with('.')) {
        action.pop_back();
    }
    return action.empty() ? tool.name : action;
}

}  // namespace

PlanStep make_plan_step(const Tool& tool, Json params) {
    std::string summary = action_of(tool);
    if (const std::string argument = main_argument(tool, params); !argument.empty()) {
        summary += ": " + argument;
    }
    return {cut_utf8(summary, kMaxStepSummary), tool.name, std::move(params), tool.module};
}

}  // namespace mana_ai::core
