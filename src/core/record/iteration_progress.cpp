#include "mana_ai/core/record/iteration_progress.hpp"

#include <cstddef>

#include "mana_ai/core/text/json_member.hpp"

namespace mana_ai::core {

namespace {

const Json* steps_of(const Json& iteration) {
    const Json* plan = member(iteration, "plan");
    return plan != nullptr && plan->is_array() ? plan : nullptr;
}

bool is_open(const Json& step) {
    return is_open_step(string_or(step, "status", ""));
}

bool has_feedback(const Json& iteration) {
    return !string_or(iteration, "userFeedback", "").empty();
}

bool is_same_step(const Json& a, const Json& b) {
    const Json* id = member(a, "id");
    const Json* other_id = member(b, "id");
    return id != nullptr && other_id != nullptr && *id == *other_id;
}

bool is_waiting(const Json& iteration) {
    const std::string_view status = string_or(iteration, "overallStatus", "awaiting-review");
    return status == "awaiting-review";
}

// Takes from `other` the steps that are open in `plan`; returns whether there were any.
bool take_steps(Json& plan, const Json& other) {
    const Json* steps = steps_of(other);
    bool changed = false;
    for (std::size_t i = 0; steps != nullptr && i < plan.size() && i < steps->size(); ++i) {
        const Json& step = (*steps)[i];
        if (is_open(plan[i]) && step.is_object() && !is_open(step) && is_same_step(plan[i], step)) {
            plan[i] = step;
            changed = true;
        }
    }
    return changed;
}

}  // namespace

bool is_open_step(std::string_view status) noexcept {
    return status == "planned" || status == "staged";
}

std::optional<Json> lost_progress(const Json& held, const std::vector<Json>& others) {
    if (!held.is_object()) {
        return std::nullopt;
    }
    Json lost = Json::object();
    if (const Json* steps = steps_of(held)) {
        Json plan = *steps;
        const Json* status = nullptr;
        for (const Json& other : others) {
            if (take_steps(plan, other) && status == nullptr && !is_waiting(other)) {
                status = member(other, "overallStatus");
            }
        }
        if (plan != *steps) {
            lost["plan"] = std::move(plan);
            if (status != nullptr && is_waiting(held)) {
                lost["overallStatus"] = *status;
            }
        }
    }
    for (std::size_t i = 0; i < others.size() && !has_feedback(held); ++i) {
        if (has_feedback(others[i])) {
            lost["userFeedback"] = others[i]["userFeedback"];
            break;
        }
    }
    return lost.empty() ? std::nullopt : std::optional<Json>(std::move(lost));
}

}  // namespace mana_ai::core
