#include "mana_ai/extension/process/what_if_subject.hpp"

#include <algorithm>

#include "mana_ai/core/service/model_wire.hpp"
#include "mana_ai/core/text/utf8.hpp"
#include "mana_ai/core/text/words.hpp"
#include "mana_ai/extension/run/past_plan.hpp"
#include "mana_ai/pg/error.hpp"
#include "mana_ai/pg/postgres.hpp"

namespace mana_ai {

void check_model_name(const std::string& model) {
    if (model.empty() || core::trimmed(model) != model ||
        core::count_code_points(model) > core::kMaxModelName ||
        model.find(',') != std::string::npos)
        throw pg::make_error(
            ERRCODE_INVALID_PARAMETER_VALUE,
            "\"" + core::cut_utf8(model, core::kMaxModelName) + "\" is not a model's name");
}

PastRun read_past_run(const std::string& run_id) {
    PastRun run;
    run.run_id = run_id;
    run.recorded = recorded_run(run_id);
    const auto& requests = run.recorded.requests;
    const auto first =
        std::find_if(requests.begin(), requests.end(), [](const RecordedRequest& request) {
            return request.purpose == "plan" && request.round == 1;
        });
    if (first == requests.end()) {
        run.obstacle = Obstacle{"lost", kNothingOnRecord};
        return run;
    }
    run.request = *first;
    run.prompt = rebuild_prompt(run.recorded);
    const RebuiltRequest rebuilt = rebuild_request(run.recorded, run.prompt, run.request);
    if (rebuilt.body.empty())
        run.obstacle = Obstacle{rebuilt.status, rebuilt.reason};
    return run;
}

core::Json facts_question(std::span<const PastRun> runs) {
    core::Json list = core::Json::array();
    for (const PastRun& run : runs)
        list.push_back({{"run_id", run.run_id}, {"user_id", run.recorded.user_id}});
    return {{"ask", "facts"}, {"runs", std::move(list)}};
}

void take_facts(PastRun& run, const core::Json& facts) {
    if (!facts.is_object())
        return;
    run.mission_id = facts.at("mission_id");
    // The iteration of a failed run tells the user so.
    if (facts.at("outcome") == "planned" && !facts.at("iteration_id").is_null())
        run.plan = read_past_plan(run.recorded.user_id, run.mission_id, facts.at("iteration_id"));
}

core::Json question_about(const PastRun& run, const std::string& model) {
    const auto& agent = run.prompt.agent;
    return {{"ask", "what_if"},
            {"run_id", run.run_id},
            {"user_id", run.recorded.user_id},
            {"mission_id", run.mission_id},
            {"agent_id", agent ? agent->id : std::string()},
            {"agent", agent ? core::Json(run.prompt.agent_text) : core::Json()},
            {"agent_tokens", run.request.agent_tokens},
            {"system", run.prompt.system},
            {"user", run.prompt.user},
            {"prompt_version", run.recorded.prompt_version},
            {"model", model},
            {"service_tier", run.request.service_tier},
            {"has_cache_key", run.request.has_cache_key}};
}

}  // namespace mana_ai
