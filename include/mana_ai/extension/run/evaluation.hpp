// An evaluation: past runs that another model is asked about, one after the other, within a budget
// (docs/lineage.md). Only ids and figures are stored. All functions run in the current transaction.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "mana_ai/core/planner/budget.hpp"
#include "mana_ai/core/planner/plan_difference.hpp"
#include "mana_ai/core/service/model_wire.hpp"
#include "mana_ai/core/text/json.hpp"
#include "mana_ai/extension/lease/run_record.hpp"

namespace mana_ai {

// The run that is asked about.
struct EvaluationRun {
    std::string evaluation_id;  // empty = it is not part of an evaluation
    std::string run_id;
    std::vector<core::ComparedStep> planned;
};

// Inserts it with its runs, from a question of the caller; returns its id. Throws PgError if money
// is to be limited and the model has no price.
std::string begin_evaluation(const core::Json& question, uint32_t engine);

// Takes over an evaluation whose process no longer exists. Throws PgError otherwise.
core::Json resume_evaluation(const core::Json& question, uint32_t engine);

// `ended`: why, as in mana_ai.evaluations.
void end_evaluation(const std::string& evaluation_id, const std::string& ended);

// The row of mana_ai.evaluation_report, each value as text.
core::Json report_of_evaluation(const std::string& evaluation_id);

// Why its budget has no room for the call; nullptr: it has.
const char* evaluation_without_room(const EvaluationRun& run, const std::string& model,
                                    const std::string& tier, const core::CallNeed& need);

// Forgets the figures of an earlier attempt at the run; its tokens stay in those of the evaluation.
void begin_evaluation_run(const EvaluationRun& run);

void charge_evaluation(const EvaluationRun& run, const core::Usage& usage, const Charge& charge);

// The result. `steps`: of the other model, if the status is "planned".
void finish_evaluation_run(const EvaluationRun& run, const std::string& status,
                           const std::vector<core::ComparedStep>& steps);

}  // namespace mana_ai
