// what_if(): what another model would have planned (docs/lineage.md).

#include <algorithm>
#include <optional>
#include <string>

#include "mana_ai/core/planner/plan_difference.hpp"
#include "mana_ai/extension/process/json_row.hpp"
#include "mana_ai/extension/process/what_if_process.hpp"
#include "mana_ai/extension/process/what_if_subject.hpp"
#include "mana_ai/pg/function_call.hpp"
#include "mana_ai/pg/guard.hpp"

extern "C" {
#include "utils/uuid.h"
}

namespace mana_ai {

namespace {

constexpr char kFunction[] = "mana_ai.what_if()";

// Nothing: the run's own.
std::optional<std::string> model_argument(FunctionCallInfo fcinfo, int n) {
    if (PG_ARGISNULL(n))
        return std::nullopt;
    std::string model = pg::text_argument(fcinfo, n);
    check_model_name(model);
    return model;
}

core::Json with_difference(core::Json answer, const PastRun& run) {
    answer["run_id"] = run.run_id;
    answer["duration"] = std::to_string(answer.at("ms").get<int64_t>()) + " milliseconds";
    if (core::string_or(answer, "reason", {}).empty())
        answer["reason"] = nullptr;
    if (core::string_or(answer, "model", {}).empty())
        answer["model"] = nullptr;
    if (!run.plan)
        return answer;
    std::vector<core::ComparedStep> approved;
    std::copy_if(run.plan->begin(), run.plan->end(), std::back_inserter(approved),
                 [](const core::ComparedStep& step) { return step.was_approved; });
    answer["planned_steps"] = core::to_json(*run.plan);
    answer["accepted_steps"] = core::to_json(approved);
    if (answer.at("status") != "planned")
        return answer;
    const core::PlanDifference difference =
        core::compare_plans(*run.plan, core::steps_of_json(answer.at("steps")));
    answer["difference"] = {{"same", core::to_json(difference.same)},
                            {"added", core::to_json(difference.added)},
                            {"missing", core::to_json(difference.missing)},
                            {"same_tool", difference.same_tool}};
    return answer;
}

Datum what_if(FunctionCallInfo fcinfo, std::optional<WhatIfProcess>& process,
              const std::string& run_id, const std::optional<std::string>& model) {
    PastRun run = read_past_run(run_id);
    if (run.obstacle)
        return row_of_json(fcinfo, {{"run_id", run_id},
                                    {"status", run.obstacle->status},
                                    {"reason", run.obstacle->reason}});
    if (!process)
        process.emplace(kFunction);
    const core::Json facts = process->ask(facts_question({&run, 1}));
    take_facts(run, facts.at("facts").at(0));
    core::Json answer = process->ask(question_about(run, model.value_or(run.request.model)));
    return row_of_json(fcinfo, with_difference(std::move(answer), run));
}

}  // namespace

}  // namespace mana_ai

extern "C" {

PG_FUNCTION_INFO_V1(mana_ai_what_if);
PGDLLEXPORT Datum mana_ai_what_if(PG_FUNCTION_ARGS) {
    using namespace mana_ai;
    return pg::entry_point([fcinfo] {
        if (PG_ARGISNULL(0))
            throw pg::make_error(ERRCODE_NULL_VALUE_NOT_ALLOWED, "run id must not be null");
        const char* run_id = pg::guarded([fcinfo] {
            return DatumGetCString(DirectFunctionCall1(uuid_out, PG_GETARG_DATUM(0)));
        });
        const auto model = model_argument(fcinfo, 1);
        std::optional<WhatIfProcess> process;
        return what_if(fcinfo, process, run_id, model);
    });
}

PG_FUNCTION_INFO_V1(mana_ai_what_if_of_mission);
PGDLLEXPORT Datum mana_ai_what_if_of_mission(PG_FUNCTION_ARGS) {
    using namespace mana_ai;
    return pg::entry_point([fcinfo] {
        if (PG_ARGISNULL(0) || PG_ARGISNULL(1))
            throw pg::make_error(ERRCODE_NULL_VALUE_NOT_ALLOWED,
                                 "user id and mission id must not be null");
        const std::string user_id = pg::text_argument(fcinfo, 0);
        const std::string mission_id = pg::text_argument(fcinfo, 1);
        const auto model = model_argument(fcinfo, 2);
        std::optional<WhatIfProcess> process(std::in_place, kFunction);
        const core::Json latest =
            process->ask({{"ask", "latest"}, {"user_id", user_id}, {"mission_id", mission_id}});
        if (latest.at("run_id").is_null())
            return row_of_json(fcinfo, {{"status", "lost"}, {"reason", kNothingOnRecord}});
        return what_if(fcinfo, process, latest.at("run_id"), model);
    });
}

}  // extern "C"
