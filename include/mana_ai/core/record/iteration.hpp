// What a finished plan becomes in the mission's record. docs/contract/data.md, Write-back.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "mana_ai/core/record/plan_step.hpp"
#include "mana_ai/core/record/policy.hpp"
#include "mana_ai/core/record/records.hpp"
#include "mana_ai/core/text/json.hpp"
#include "mana_ai/core/time/instant.hpp"

namespace mana_ai::core {

// A record that changed between its reading and the writing of the plan.
struct ChangedRead {
    std::string table;
    std::string id;
    std::optional<Instant> at;  // nullopt: unknown
};

struct IterationInput {
    std::string iteration_id;
    Instant started_at = 0;
    Instant finished_at = 0;
    const std::vector<PlanStep>& steps;
    std::string summary;
    StepStatus step_status = StepStatus::Planned;
    const Policy* policy = nullptr;  // of the agent; null without one
    std::string prompt_version = {};
    std::vector<ChangedRead> changed_since = {};
    bool changed_since_is_incomplete = false;  // of some records nobody could tell
};

// {id, startedAt, finishedAt, plan, summary, overallStatus, source, promptVersion?, changedSince?,
// changedSinceIncomplete?}; fit for jsonb.
Json build_iteration(const IterationInput& input);

// The `actor` of the write-back. Null agent: the legacy principal. The rationale is the objective,
// and empty if that was decrypted under a grant or still is ciphertext.
Json build_actor(const Agent* agent, const Mission& mission, std::string_view iteration_id,
                 bool objective_was_decrypted);

}  // namespace mana_ai::core
