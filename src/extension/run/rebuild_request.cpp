#include "mana_ai/extension/run/rebuild_request.hpp"

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "mana_ai/core/planner/planner_loop.hpp"
#include "mana_ai/core/planner/prompts.hpp"
#include "mana_ai/core/planner/tool_catalog.hpp"
#include "mana_ai/core/record/mission_input.hpp"
#include "mana_ai/crypto/digest.hpp"
#include "mana_ai/extension/input/input_records.hpp"
#include "mana_ai/extension/lease/lineage.hpp"
#include "mana_ai/extension/run/planning_record.hpp"
#include "mana_ai/extension/run/tool_table.hpp"
#include "mana_ai/extension/sync/record_reader.hpp"
#include "mana_ai/pg/function_call.hpp"
#include "mana_ai/pg/guard.hpp"
#include "mana_ai/pg/scratch_memory.hpp"
#include "mana_ai/pg/settings.hpp"
#include "mana_ai/pg/spi.hpp"
#include "mana_ai/pg/text.hpp"

extern "C" {
#include "miscadmin.h"
#include "utils/uuid.h"
}

namespace mana_ai {

RecordedRun recorded_run(const std::string& run_id) {
    static pg::Statement select_requests(R"sql(
SELECT user_id, prompt_version, research, ordinal, purpose, round, encode(sha256, 'hex'), model, service_tier,
       max_tokens, prompt_cache_key, agent_tokens, extract(year FROM local_time)::int,
       extract(month FROM local_time)::int, extract(day FROM local_time)::int,
       extract(hour FROM local_time)::int, extract(minute FROM local_time)::int
  FROM mana_ai.run_requests WHERE run_id = $1::uuid ORDER BY ordinal)sql");
    static pg::Statement select_reads(R"sql(
SELECT role, module, table_name, record_id, encode(clocks, 'hex'), was_encrypted, left_out IS NOT NULL
  FROM mana_ai.run_reads WHERE run_id = $1::uuid AND user_id = $2 ORDER BY ordinal)sql");
    RecordedRun run;
    for (const pg::Row& row : select_requests.execute({std::string_view(run_id)}, true).rows) {
        run.user_id = row.text(0);
        run.prompt_version = row.text(1);
        run.research = row.text(2);
        run.local_time.year = static_cast<int>(row.number(12));
        run.local_time.month = static_cast<int>(row.number(13));
        run.local_time.day = static_cast<int>(row.number(14));
        run.local_time.hour = static_cast<int>(row.number(15));
        run.local_time.minute = static_cast<int>(row.number(16));
        run.requests.push_back({row.number(3), row.text(4), row.number(5), row.text(6), row.text(7),
                                row.text(8), row.number(9), row.number(10) != 0, row.number(11)});
    }
    if (run.requests.empty())
        return run;
    for (const pg::Row& row :
         select_reads.execute({std::string_view(run_id), std::string_view(run.user_id)}, true).rows)
        run.reads.push_back({row.text(0), row.text(1), row.text(2), row.text(3), row.text(4),
                             row.number(5) != 0, row.number(6) != 0});
    return run;
}

namespace {

// The result of planning_record() or planning_agent() for the record as it was; nullopt:
// unavailable.
std::optional<std::string> planning_text(const std::string& user_id, const RecordedRead& read) {
    RecordQuery& query = record_query(attached_sync_table());
    const pg::ScratchMemory scratch("mana_ai rebuilt record");
    const char* text = pg::guarded([&]() -> const char* {
        ClockBounds bounds;
        if (read.clocks.empty() || !read_clock_vector(read.clocks, bounds))
            return nullptr;
        const RecordAddress address{pg::text_datum(user_id), pg::text_datum("ai"),
                                    pg::text_datum(read.table), pg::text_datum(read.id)};
        const ReplayedRecord replayed = replay_by_query(
            query, address, {.max_size = pg::settings::max_record_size(), .bounds = &bounds});
        if (replayed.record == nullptr || replayed.lost > 0)
            return nullptr;
        const Datum record = JsonbPGetDatum(replayed.record);
        return read.role == "mission" ? planning_record_text(record, nullptr)
                                      : planning_agent_text(record);
    });
    return text == nullptr ? std::nullopt : std::optional<std::string>(text);
}

std::string named(const RecordedRead& read) {
    return "\"" + read.id + "\" of " + read.table;
}

Obstacle lost(const RecordedRead& read) {
    return {"lost", "record " + named(read) +
                        " is not in the log as it was then, or cannot be read by this user"};
}

// Obstacles that are known without reading the log.
std::optional<Obstacle> known_obstacle(const RecordedRun& run) {
    if (run.research == "used")
        return Obstacle{"withheld", "what the research has found is not kept"};
    for (const RecordedRead& read : run.reads) {
        if (read.is_left_out)
            continue;
        if (read.was_encrypted)
            return Obstacle{"encrypted", "record " + named(read) + " was opened under a grant"};
        if (read.role == "input" && core::built_in_module(read.module) == nullptr)
            return Obstacle{"withheld",
                            "what the resolver of " + read.module + " has said is not kept"};
        if (read.role == "agent" && read.clocks.starts_with(kClocksOfShared))
            return Obstacle{"withheld", "agent " + named(read) + " is another member's"};
    }
    return std::nullopt;
}

// The inputs are the records of that role; a linked record follows its input.
std::optional<Obstacle> read_inputs(const RecordedRun& run,
                                    std::vector<core::ResolvedInput>& inputs) {
    for (size_t i = 0; i < run.reads.size(); i++) {
        const RecordedRead& read = run.reads[i];
        if (read.role != "input" || read.is_left_out)
            continue;
        const core::InputModule* module = core::built_in_module(read.module);
        RecordClocks clocks;
        clocks.own = read.clocks;
        if (i + 1 < run.reads.size() && run.reads[i + 1].role == "linked") {
            clocks.linked_id = run.reads[i + 1].id;
            clocks.linked = run.reads[i + 1].clocks;
            clocks.linked_was_read = !run.reads[i + 1].is_left_out;
        }
        const auto record = clocks.own.empty() ? std::nullopt
                                               : reread_input_record(run.user_id, *module,
                                                                     read.table, read.id, clocks);
        if (!record)
            return lost(read);
        inputs.push_back(
            core::render_input({read.module, read.table, read.id}, *module, record->record));
    }
    return std::nullopt;
}

}  // namespace

RebuiltPrompt rebuild_prompt(const RecordedRun& run) {
    RebuiltPrompt prompt;
    prompt.obstacle = known_obstacle(run);
    if (prompt.obstacle)
        return prompt;
    std::optional<core::Mission> mission;
    for (const RecordedRead& read : run.reads) {
        if ((read.role != "mission" && read.role != "agent") || read.is_left_out)
            continue;
        auto text = planning_text(run.user_id, read);
        if (read.role == "mission") {
            if (auto planning = text ? read_planning_mission(*text) : std::nullopt)
                mission = std::move(planning->mission);
        } else if (text) {
            prompt.agent = read_planning_agent(*text, read.id);
            prompt.agent_text = std::move(*text);
        }
        if (read.role == "mission" ? !mission : !prompt.agent) {
            prompt.obstacle = lost(read);
            return prompt;
        }
    }
    if (!mission) {
        prompt.obstacle = {"lost", "what the run has read is not recorded"};
        return prompt;
    }
    std::vector<core::ResolvedInput> inputs;
    prompt.obstacle = read_inputs(run, inputs);
    if (prompt.obstacle)
        return prompt;
    const core::Agent* agent = prompt.agent ? &*prompt.agent : nullptr;
    prompt.tools = core::offer(load_tools().tools, agent != nullptr ? &agent->policy : nullptr);
    if (prompt_version_of(prompt.tools.tools_json()) != run.prompt_version) {
        prompt.obstacle = {"changed", "prompt or offered tools are not those of version " +
                                          run.prompt_version + " any more"};
        return prompt;
    }
    prompt.system = core::system_prompt(agent);
    prompt.user = core::user_prompt(*mission, inputs, run.local_time, run.research == "failed");
    return prompt;
}

RebuiltRequest rebuild_request(const RecordedRun& run, const RebuiltPrompt& prompt,
                               const RecordedRequest& request) {
    if (prompt.obstacle)
        return {prompt.obstacle->status, prompt.obstacle->reason, {}};
    if (request.purpose != "plan" || request.round > 1)
        return {"withheld", "what the model has replied before is not kept", {}};
    const core::PlannerLoop planner(prompt.system, prompt.user, prompt.tools);
    core::LoopState state = planner.state();
    if (prompt.agent) {
        state.agent_name = prompt.agent->name;
        state.cap = prompt.agent->max_tokens_per_day;
        state.tokens_before_run = request.agent_tokens;
    }
    core::ServiceWishes wishes{request.service_tier, {}};
    if (request.has_cache_key)
        wishes.prompt_cache_key =
            prompt_cache_key_of(run.user_id, prompt.agent ? prompt.agent->id : std::string());
    RebuiltRequest answer;
    answer.body =
        planner.request_body(request.model, core::reminders(state), request.max_tokens, wishes)
            .text;
    // Never returns a body that differs from the request.
    if (crypto::sha256_hex(answer.body) != request.sha256)
        return {"changed", "what the log says does not give the digest that was recorded", {}};
    return answer;
}

}  // namespace mana_ai

extern "C" {

PG_FUNCTION_INFO_V1(mana_ai_rebuild_request);
PGDLLEXPORT Datum mana_ai_rebuild_request(PG_FUNCTION_ARGS) {
    using namespace mana_ai;
    return pg::entry_point([fcinfo] {
        const pg::RowSet rows = pg::guarded([fcinfo] { return pg::begin_row_set(fcinfo); });
        const char* run_id = pg::guarded([fcinfo] {
            return DatumGetCString(DirectFunctionCall1(uuid_out, PG_GETARG_DATUM(0)));
        });
        const RecordedRun run = recorded_run(run_id);
        if (run.requests.empty())
            return Datum{0};
        const RebuiltPrompt prompt = rebuild_prompt(run);
        for (const RecordedRequest& request : run.requests) {
            const RebuiltRequest answer = rebuild_request(run, prompt, request);
            pg::guarded([&] {
                Datum values[7] = {
                    Int32GetDatum(static_cast<int32>(request.ordinal)),
                    CStringGetTextDatum(request.purpose.c_str()),
                    Int32GetDatum(static_cast<int32>(request.round)),
                    CStringGetTextDatum(request.sha256.c_str()),
                    CStringGetTextDatum(answer.status),
                    CStringGetTextDatum(answer.reason.c_str()),
                    CStringGetTextDatum(answer.body.c_str()),
                };
                bool nulls[7] = {};
                nulls[3] = request.sha256.empty();
                nulls[5] = answer.reason.empty();
                nulls[6] = answer.body.empty();
                rows.add(values, nulls);
            });
        }
        return Datum{0};
    });
}

}  // extern "C"
