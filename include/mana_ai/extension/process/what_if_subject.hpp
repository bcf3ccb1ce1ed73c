// A past run that another model is asked about, as the caller may read it.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "mana_ai/core/planner/plan_difference.hpp"
#include "mana_ai/core/text/json.hpp"
#include "mana_ai/extension/run/rebuild_request.hpp"

namespace mana_ai {

inline constexpr char kNothingOnRecord[] =
    "no request of such a run is on record, or this user may not read it";

struct PastRun {
    std::string run_id;
    RecordedRun recorded;
    RecordedRequest request;  // the first one
    RebuiltPrompt prompt;
    std::optional<Obstacle> obstacle;  // why it cannot be rebuilt
    // From the facts of the process.
    std::string mission_id;
    std::optional<std::vector<core::ComparedStep>> plan;
};

// Throws PgError for a text that cannot be a model's name.
void check_model_name(const std::string& model);

PastRun read_past_run(const std::string& run_id);

// The question for what is on record of runs; `facts` is the answer for one of them.
core::Json facts_question(std::span<const PastRun> runs);
void take_facts(PastRun& run, const core::Json& facts);

core::Json question_about(const PastRun& run, const std::string& model);

}  // namespace mana_ai
