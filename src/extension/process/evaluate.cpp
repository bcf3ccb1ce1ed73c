// evaluate(): what another model would have planned in a sample of past runs (docs/lineage.md).

#include <algorithm>
#include <optional>
#include <string>
#include <vector>

#include "mana_ai/extension/process/json_row.hpp"
#include "mana_ai/extension/process/what_if_process.hpp"
#include "mana_ai/extension/process/what_if_subject.hpp"
#include "mana_ai/pg/function_call.hpp"
#include "mana_ai/pg/guard.hpp"
#include "mana_ai/pg/scratch_memory.hpp"
#include "mana_ai/pg/spi.hpp"
#include "mana_ai/pg/time.hpp"

extern "C" {
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"
}

namespace mana_ai {

namespace {

constexpr int64_t kLargestSample = 10'000;
// Runs that are looked at for each one of the sample.
constexpr int64_t kLooks = 10;

std::string text_of(FunctionCallInfo fcinfo, int n, PGFunction output) {
    return pg::guarded(
        [=] { return DatumGetCString(DirectFunctionCall1(output, PG_GETARG_DATUM(n))); });
}

std::string session_user_name() {
    return pg::guarded([] { return GetUserNameFromId(GetSessionUserId(), false); });
}

core::Json text_or_null(FunctionCallInfo fcinfo, int n, PGFunction output) {
    return PG_ARGISNULL(n) ? core::Json() : core::Json(text_of(fcinfo, n, output));
}

// Those that the caller may read, in an order that is always the same and depends on nothing.
std::vector<std::string> candidates(core::Instant since, int64_t count) {
    static pg::Statement select_runs(R"sql(
SELECT q.run_id::text FROM mana_ai.run_requests q
 WHERE q.sent_at >= $1 AND q.purpose = 'plan' AND q.round = 1 AND q.sha256 IS NOT NULL
 GROUP BY q.run_id ORDER BY md5(q.run_id::text) LIMIT $2)sql");
    std::vector<std::string> ids;
    for (pg::Row& row : select_runs.execute({pg::Timestamp{since}, count}, true).rows)
        ids.push_back(row.take_text(0));
    return ids;
}

// With its plan, if there is one.
PastRun look_at(WhatIfProcess& process, const std::string& run_id) {
    PastRun run = read_past_run(run_id);
    if (!run.obstacle)
        take_facts(run, process.ask(facts_question({&run, 1})).at("facts").at(0));
    return run;
}

bool is_decided(const std::vector<core::ComparedStep>& plan) {
    return std::any_of(plan.begin(), plan.end(),
                       [](const core::ComparedStep& step) { return step.was_decided; });
}

// Runs whose plans users have decided about come first: they say more.
core::Json draw_sample(WhatIfProcess& process, core::Instant since, int64_t size) {
    core::Json decided = core::Json::array();
    core::Json others = core::Json::array();
    for (const std::string& run_id : candidates(since, size * kLooks)) {
        pg::check_for_interrupts();
        const pg::ScratchMemory scratch("mana_ai candidate");
        const PastRun run = look_at(process, run_id);
        if (run.obstacle || !run.plan)
            continue;
        core::Json& list = is_decided(*run.plan) ? decided : others;
        if (static_cast<int64_t>(list.size()) < size)
            list.push_back({{"run_id", run_id}, {"user_id", run.recorded.user_id}});
        if (static_cast<int64_t>(decided.size()) == size)
            break;
    }
    for (core::Json& run : others)
        if (static_cast<int64_t>(decided.size()) < size)
            decided.push_back(std::move(run));
    return decided;
}

// Returns why the evaluation cannot go on; empty: it can.
std::string evaluate_run(WhatIfProcess& process, const std::string& evaluation_id,
                         const std::string& model, const std::string& run_id) {
    const pg::ScratchMemory scratch("mana_ai evaluated run");
    const auto note = [&](const std::string& status) {
        process.ask({{"ask", "note"},
                     {"evaluation_id", evaluation_id},
                     {"run_id", run_id},
                     {"status", status}});
    };
    const PastRun run = look_at(process, run_id);
    if (run.obstacle || !run.plan) {
        note(run.obstacle ? run.obstacle->status : "lost");
        return {};
    }
    core::Json planned = core::Json::array();
    for (const core::ComparedStep& step : *run.plan)
        planned.push_back(
            {{"tool", step.tool}, {"params", step.params}, {"was_approved", step.was_approved}});
    core::Json question = question_about(run, model);
    question["evaluation_id"] = evaluation_id;
    question["planned"] = std::move(planned);
    const core::Json answer = process.ask(question);
    const std::string status = answer.at("status");
    std::string ended = answer.at("evaluation_ended");
    // These come without a conversation, or end it.
    if (ended.empty() && (status == "changed" || status == "stopped"))
        note(status);
    return ended;
}

Datum evaluate_runs(FunctionCallInfo fcinfo, WhatIfProcess& process,
                    const std::string& evaluation_id, const std::string& model,
                    const std::vector<std::string>& runs) {
    std::string ended;
    for (const std::string& run_id : runs) {
        pg::check_for_interrupts();
        ended = evaluate_run(process, evaluation_id, model, run_id);
        if (!ended.empty())
            break;
    }
    const core::Json answer = process.ask({{"ask", "end"},
                                           {"evaluation_id", evaluation_id},
                                           {"ended", ended.empty() ? "complete" : ended}});
    return row_of_json(fcinfo, answer.at("report"));
}

void check_limits(FunctionCallInfo fcinfo, int max_tokens, int max_cost) {
    if (!PG_ARGISNULL(max_tokens) && PG_GETARG_INT64(max_tokens) < 0)
        throw pg::make_error(ERRCODE_INVALID_PARAMETER_VALUE, "max_tokens must not be negative");
    if (!PG_ARGISNULL(max_cost) && text_of(fcinfo, max_cost, numeric_out).starts_with('-'))
        throw pg::make_error(ERRCODE_INVALID_PARAMETER_VALUE, "max_cost must not be negative");
}

}  // namespace

}  // namespace mana_ai

extern "C" {

PG_FUNCTION_INFO_V1(mana_ai_evaluate);
PGDLLEXPORT Datum mana_ai_evaluate(PG_FUNCTION_ARGS) {
    using namespace mana_ai;
    return pg::entry_point([fcinfo] {
        for (int n = 0; n < 4; n++)
            if (PG_ARGISNULL(n))
                throw pg::make_error(ERRCODE_NULL_VALUE_NOT_ALLOWED, "only max_cost may be null");
        const core::Instant since = pg::instant_from_timestamptz(PG_GETARG_TIMESTAMPTZ(0));
        const std::string model = pg::text_argument(fcinfo, 1);
        const int64_t size = PG_GETARG_INT32(2);
        check_model_name(model);
        if (size < 1 || size > kLargestSample)
            throw pg::make_error(ERRCODE_INVALID_PARAMETER_VALUE,
                                 "sample must be between 1 and " + std::to_string(kLargestSample));
        check_limits(fcinfo, 3, 4);
        WhatIfProcess process("mana_ai.evaluate()");
        core::Json runs = draw_sample(process, since, size);
        std::vector<std::string> ids;
        for (const core::Json& run : runs)
            ids.push_back(run.at("run_id"));
        const core::Json begun = process.ask({{"ask", "begin"},
                                              {"model", model},
                                              {"since", since},
                                              {"sample", size},
                                              {"max_tokens", PG_GETARG_INT64(3)},
                                              {"max_cost", text_or_null(fcinfo, 4, numeric_out)},
                                              {"by", session_user_name()},
                                              {"runs", std::move(runs)}});
        return evaluate_runs(fcinfo, process, begun.at("evaluation_id"), model, ids);
    });
}

PG_FUNCTION_INFO_V1(mana_ai_continue_evaluation);
PGDLLEXPORT Datum mana_ai_continue_evaluation(PG_FUNCTION_ARGS) {
    using namespace mana_ai;
    return pg::entry_point([fcinfo] {
        if (PG_ARGISNULL(0))
            throw pg::make_error(ERRCODE_NULL_VALUE_NOT_ALLOWED, "evaluation id must not be null");
        check_limits(fcinfo, 1, 2);
        WhatIfProcess process("mana_ai.continue_evaluation()");
        const core::Json resumed =
            process.ask({{"ask", "resume"},
                         {"evaluation_id", text_of(fcinfo, 0, uuid_out)},
                         {"by", session_user_name()},
                         {"is_superuser", pg::guarded([] { return superuser(); })},
                         {"max_tokens", text_or_null(fcinfo, 1, int8out)},
                         {"max_cost", text_or_null(fcinfo, 2, numeric_out)}});
        return evaluate_runs(fcinfo, process, resumed.at("evaluation_id"), resumed.at("model"),
                             resumed.at("runs"));
    });
}

}  // extern "C"
