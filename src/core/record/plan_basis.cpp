#include "mana_ai/core/record/plan_basis.hpp"

#include <algorithm>
#include <array>
#include <utility>

namespace mana_ai::core {

namespace {

Json value_of(const Json& object, const char* key) {
    if (!object.is_object()) {
        return nullptr;
    }
    const auto member = object.find(key);
    return member == object.end() ? Json() : *member;
}

bool says_something(const Json& feedback) {
    return !feedback.is_null() && feedback != "";
}

// The user's response to an iteration; null if it is as build_iteration() made it.
Json verdict_on(const Json& iteration) {
    const Json plan = value_of(iteration, "plan");
    Json step_statuses;
    bool as_planned = plan.is_array();
    if (plan.is_array()) {
        step_statuses = Json::array();
        for (const Json& step : plan) {
            step_statuses.push_back(value_of(step, "status"));
            const Json& status = step_statuses.back();
            as_planned = as_planned && (status == "planned" || status == "staged");
        }
    }
    Json status = value_of(iteration, "overallStatus");
    Json feedback = value_of(iteration, "userFeedback");
    Json older_feedback = value_of(iteration, "feedback");
    const bool is_untouched = as_planned && value_of(iteration, "source") == "server" &&
                              status == (plan.empty() ? "approved" : "awaiting-review") &&
                              !says_something(feedback) && !says_something(older_feedback);
    if (is_untouched) {
        return nullptr;
    }
    return Json::array({value_of(iteration, "id"), std::move(status), std::move(feedback),
                        std::move(older_feedback), std::move(step_statuses)});
}

Json verdicts_on(const Json& iterations) {
    Json verdicts = Json::array();
    if (iterations.is_array()) {
        for (const Json& iteration : iterations) {
            // Prompts do not show anything but objects either.
            Json verdict = iteration.is_object() ? verdict_on(iteration) : Json();
            if (!verdict.is_null()) {
                verdicts.push_back(std::move(verdict));
            }
        }
    }
    return verdicts;
}

Json decisions(const Policy::Decisions& decisions) {
    Json all = Json::object();
    for (const auto& [key, decision] : decisions) {
        all[key] = name(decision);
    }
    return all;
}

template <typename Value>
Json value_or_null(const std::optional<Value>& value) {
    return value ? Json(*value) : Json();
}

Json everything_about(const Agent& agent) {
    return {{"id", agent.id},
            {"name", agent.name},
            {"role", agent.role},
            {"state", agent.state},
            {"systemPrompt", value_or_null(agent.system_prompt)},
            {"memory", value_or_null(agent.memory)},
            {"tools", decisions(agent.policy.tools)},
            {"defaultsByModule", decisions(agent.policy.defaults_by_module)},
            {"defaultForAi", name(agent.policy.default_for_ai)},
            {"maxConcurrentMissions", agent.max_concurrent_missions},
            {"maxTokensPerDay", value_or_null(agent.max_tokens_per_day)}};
}

}  // namespace

std::string verdicts(const Json& iterations) {
    return dump_json(verdicts_on(iterations));
}

std::string plan_basis(const Mission& mission, const Agent* agent,
                       const std::vector<InputVersion>& inputs, std::string_view model) {
    Json versions = Json::array();
    for (const InputVersion& input : inputs) {
        versions.push_back(Json::array(
            {input.reference.module, input.reference.table, input.reference.id, input.version}));
    }
    return dump_json(
        {{"title", mission.title},
         {"objective", mission.objective},
         {"concept", mission.concept_markdown},
         {"cadence", mission.cadence},
         {"agentId", value_or_null(mission.agent_id)},
         {"agent", agent == nullptr ? Json() : everything_about(*agent)},
         {"inputs", std::move(versions)},
         {"iterations", mission.verdicts_digest.empty() ? verdicts_on(mission.iterations)
                                                        : Json(mission.verdicts_digest)},
         {"model", model}});
}

bool is_recurring(const Json& cadence) noexcept {
    constexpr std::array<std::string_view, 4> kKinds = {"interval", "daily", "weekly", "cron"};
    return std::find(kKinds.begin(), kKinds.end(), string_or(cadence, "kind", "")) != kKinds.end();
}

}  // namespace mana_ai::core
