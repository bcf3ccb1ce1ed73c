#include "mana_ai/core/record/iteration.hpp"

namespace mana_ai::core {

namespace {

const char* status_of(const PlanStep& step, const IterationInput& input) {
    if (input.step_status != StepStatus::ByPolicy) {
        return name(input.step_status);
    }
    const bool may_run = input.policy != nullptr &&
                         decide(*input.policy, step.tool_name, step.module) == Decision::Auto;
    return name(may_run ? StepStatus::Planned : StepStatus::Staged);
}

}  // namespace

Json build_iteration(const IterationInput& input) {
    Json plan = Json::array();
    for (std::size_t i = 0; i < input.steps.size(); ++i) {
        const PlanStep& step = input.steps[i];
        plan.push_back(
            {{"id", input.iteration_id + "-" + std::to_string(i)},
             {"summary", step.summary},
             {"intent",
              {{"kind", "toolCall"}, {"toolName", step.tool_name}, {"params", step.params}}},
             {"status", status_of(step, input)}});
    }
    Json iteration = {{"id", input.iteration_id},
                      {"startedAt", to_iso_millis(input.started_at)},
                      {"finishedAt", to_iso_millis(input.finished_at)},
                      {"plan", std::move(plan)},
                      {"summary", input.summary},
                      {"overallStatus", input.steps.empty() ? "approved" : "awaiting-review"},
                      {"source", "server"}};
    if (!input.prompt_version.empty()) {
        iteration["promptVersion"] = input.prompt_version;
    }
    for (const ChangedRead& read : input.changed_since) {
        iteration["changedSince"].push_back(
            {{"table", read.table},
             {"id", read.id},
             {"at", read.at ? Json(to_iso_millis(*read.at)) : Json()}});
    }
    if (input.changed_since_is_incomplete) {
        iteration["changedSinceIncomplete"] = true;
    }
    remove_nul(iteration);
    return iteration;
}

Json build_actor(const Agent* agent, const Mission& mission, std::string_view iteration_id,
                 bool objective_was_decrypted) {
    const bool hide_objective = objective_was_decrypted || is_ciphertext(mission.objective);
    Json actor = {{"kind", "ai"},
                  {"principalId", agent != nullptr ? agent->id : std::string(kLegacyAgentId)},
                  {"displayName", agent != nullptr ? agent->name : std::string("Mana")},
                  {"missionId", mission.id},
                  {"iterationId", iteration_id},
                  {"rationale", hide_objective ? std::string() : mission.objective}};
    remove_nul(actor);
    return actor;
}

}  // namespace mana_ai::core
