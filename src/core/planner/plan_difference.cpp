#include "mana_ai/core/planner/plan_difference.hpp"

#include <algorithm>
#include <cstddef>
#include <utility>

#include "mana_ai/core/text/words.hpp"

namespace mana_ai::core {

std::vector<ComparedStep> steps_of_iteration(const Json& iteration) {
    std::vector<ComparedStep> steps;
    const auto plan = iteration.find("plan");
    if (plan == iteration.end() || !plan->is_array()) {
        return steps;
    }
    for (const Json& step : *plan) {
        const auto intent = step.is_object() ? step.find("intent") : step.end();
        if (!step.is_object() || intent == step.end() || !intent->is_object()) {
            continue;
        }
        const std::string_view tool = string_or(*intent, "toolName", {});
        if (tool.empty()) {
            continue;
        }
        const auto params = intent->find("params");
        const std::string_view status = string_or(step, "status", "planned");
        steps.push_back({std::string(tool), params != intent->end() ? *params : Json::object(),
                         status == "approved", status != "planned" && status != "staged"});
    }
    return steps;
}

Json canonical_params(const Json& params) {
    if (params.is_string()) {
        return one_line(params.get_ref<const std::string&>());
    }
    if (params.is_array()) {
        Json canonical = Json::array();
        for (const Json& element : params) {
            canonical.push_back(canonical_params(element));
        }
        return canonical;
    }
    if (params.is_object()) {
        Json canonical = Json::object();
        for (const auto& [name, value] : params.items()) {
            Json member = canonical_params(value);
            if (!member.is_null() && member != "") {
                canonical[name] = std::move(member);
            }
        }
        return canonical;
    }
    return params;
}

PlanDifference compare_plans(const std::vector<ComparedStep>& first,
                             const std::vector<ComparedStep>& second) {
    PlanDifference difference;
    std::vector<Json> params;
    params.reserve(second.size());
    for (const ComparedStep& step : second) {
        params.push_back(canonical_params(step.params));
    }
    std::vector<bool> has_counterpart(second.size(), false);
    for (const ComparedStep& step : first) {
        const Json wanted = canonical_params(step.params);
        std::size_t found = 0;
        while (found < second.size() &&
               (has_counterpart[found] || second[found].tool != step.tool ||
                params[found] != wanted)) {
            ++found;
        }
        difference.approved += step.was_approved ? 1 : 0;
        if (found == second.size()) {
            difference.missing.push_back(step);
            continue;
        }
        has_counterpart[found] = true;
        difference.same.push_back(step);
        difference.approved_same += step.was_approved ? 1 : 0;
    }
    for (std::size_t i = 0; i < second.size(); ++i) {
        if (!has_counterpart[i]) {
            difference.added.push_back(second[i]);
        }
    }
    // By tool alone; those that were approved first, since they are what is asked about.
    std::vector<std::string> tools;
    for (const ComparedStep& step : difference.added) {
        tools.push_back(step.tool);
    }
    difference.approved_same_tool = difference.approved_same;
    for (const bool approved : {true, false}) {
        for (const ComparedStep& step : difference.missing) {
            const auto tool = step.was_approved == approved
                                  ? std::find(tools.begin(), tools.end(), step.tool)
                                  : tools.end();
            if (tool == tools.end()) {
                continue;
            }
            tools.erase(tool);
            ++difference.same_tool;
            difference.approved_same_tool += approved ? 1 : 0;
        }
    }
    return difference;
}

Json to_json(const std::vector<ComparedStep>& steps) {
    Json list = Json::array();
    for (const ComparedStep& step : steps) {
        list.push_back({{"tool", step.tool}, {"params", step.params}});
    }
    return list;
}

std::vector<ComparedStep> steps_of_json(const Json& list) {
    std::vector<ComparedStep> steps;
    for (const Json& step : list) {
        steps.push_back({step.at("tool").get<std::string>(), step.at("params")});
    }
    return steps;
}

}  // namespace mana_ai::core
