// Small SQL functions over the pure core (docs/contract/interface.md, Functions).

#include <string>

#include "mana_ai/core/planner/gates.hpp"
#include "mana_ai/core/record/records.hpp"
#include "mana_ai/core/text/json.hpp"
#include "mana_ai/core/time/cadence.hpp"
#include "mana_ai/extension/input/decryption.hpp"
#include "mana_ai/extension/run/planning_record.hpp"
#include "mana_ai/pg/crash_watch.hpp"
#include "mana_ai/pg/function_call.hpp"
#include "mana_ai/pg/guard.hpp"
#include "mana_ai/pg/log.hpp"
#include "mana_ai/pg/settings.hpp"
#include "mana_ai/pg/shared_state.hpp"
#include "mana_ai/pg/time.hpp"
#include "mana_ai/pg/wake.hpp"

extern "C" {
#include "access/htup_details.h"
#include "utils/jsonb.h"
}

namespace mana_ai {

namespace {

core::Json json_argument(FunctionCallInfo fcinfo, int n) {
    struct View {
        const char* data;
        int length;
    };
    const View view = pg::guarded([=] {
        Jsonb* value = PG_GETARG_JSONB_P(n);
        StringInfoData buffer;
        initStringInfo(&buffer);
        (void)JsonbToCString(&buffer, &value->root, VARSIZE(value));
        return View{buffer.data, buffer.len};
    });
    return core::parse_json({view.data, static_cast<size_t>(view.length)}).value_or(core::Json());
}

}  // namespace

}  // namespace mana_ai

extern "C" {

PG_FUNCTION_INFO_V1(mana_ai_wake_worker);
PGDLLEXPORT Datum mana_ai_wake_worker(PG_FUNCTION_ARGS) {
    (void)fcinfo;
    mana_ai::pg::wake_worker_at_commit();
    return Datum(0);
}

PG_FUNCTION_INFO_V1(mana_ai_next_run);
PGDLLEXPORT Datum mana_ai_next_run(PG_FUNCTION_ARGS) {
    using namespace mana_ai;
    bool is_null = false;
    const TimestampTz next = pg::entry_point([&] {
        const TimestampTz from = PG_GETARG_TIMESTAMPTZ(1);
        if (TIMESTAMP_NOT_FINITE(from))
            throw pg::make_error(ERRCODE_INVALID_PARAMETER_VALUE, "from_time must be finite");
        const core::Json cadence = json_argument(fcinfo, 0);
        const pg::PostgresTimeZone zone(pg::text_argument(fcinfo, 2));
        const core::NextRun next_run =
            core::next_run(cadence, pg::instant_from_timestamptz(from), zone);
        is_null = !next_run.at.has_value();
        return is_null ? TimestampTz{0} : pg::timestamptz_from_instant(*next_run.at);
    });
    if (is_null)
        PG_RETURN_NULL();
    PG_RETURN_TIMESTAMPTZ(next);
}

// gate_decision(mission, agent, agent_running, agent_tokens_24h, research_pending, clocks). In
// 0.1.0 it has no clocks.
PG_FUNCTION_INFO_V1(mana_ai_gate_decision);
PGDLLEXPORT Datum mana_ai_gate_decision(PG_FUNCTION_ARGS) {
    using namespace mana_ai;
    return pg::entry_point([&] {
        const core::Instant now = pg::now();
        PlanningMission read;
        std::optional<core::Agent> agent;
        core::GateInput gates{.mission = read.mission};
        if (!PG_ARGISNULL(0)) {
            const char* text = pg::guarded([fcinfo]() -> const char* {
                const bool has_clocks = PG_NARGS() > 5 && !PG_ARGISNULL(5);
                if (is_too_large(PG_GETARG_DATUM(0)) ||
                    (has_clocks && is_too_large(PG_GETARG_DATUM(5))))
                    return nullptr;
                return planning_record_text(PG_GETARG_DATUM(0),
                                            has_clocks ? PG_GETARG_BYTEA_P(5) : nullptr);
            });
            auto found = text == nullptr ? std::nullopt : read_planning_mission(text);
            gates.record_too_large = text == nullptr;
            gates.record_unreadable = text != nullptr && !found;
            if (found)
                read = std::move(*found);
            gates.clock_ahead = read.newest_clock > now + kMaxClockLead;
            gates.runs_in_browser = read.browser_run_until > now;
        }
        const core::Mission& mission = read.mission;
        if (!PG_ARGISNULL(1)) {
            const char* text = pg::guarded([fcinfo]() -> const char* {
                return is_too_large(PG_GETARG_DATUM(1)) ? nullptr
                                                        : planning_agent_text(PG_GETARG_DATUM(1));
            });
            if (text != nullptr)
                agent = read_planning_agent(text, mission.agent_id.value_or(""));
            gates.record_too_large |= text == nullptr;
            gates.record_unreadable |= text != nullptr && !agent;
        }
        gates.agent = agent ? &*agent : nullptr;
        gates.agent_missing = core::is_agent_missing(mission, gates.agent);
        gates.agent_running = PG_ARGISNULL(2) ? 0 : PG_GETARG_INT32(2);
        gates.agent_tokens_24h = PG_ARGISNULL(3) ? 0 : PG_GETARG_INT64(3);
        gates.max_unreviewed = pg::settings::max_unreviewed();
        gates.ciphertext_opened =
            mission.has_ciphertext() && grant_may_open(mission, mission.id, now);
        gates.research_pending = !PG_ARGISNULL(4) && PG_GETARG_BOOL(4);
        const char* word = core::name(core::judge_gates(gates));
        return pg::guarded([word] { return CStringGetTextDatum(word); });
    });
}

// The crashes that caused safe mode in this database; all null without it.
PG_FUNCTION_INFO_V1(mana_ai_safe_mode);
PGDLLEXPORT Datum mana_ai_safe_mode(PG_FUNCTION_ARGS) {
    using namespace mana_ai;
    return pg::entry_point([&] {
        const auto found = pg::crash_watch::safe_mode(MyDatabaseId);
        const bool safe = found.has_value();
        const pg::crash_watch::SafeMode mode = found.value_or(pg::crash_watch::SafeMode{});
        return pg::guarded([&] {
            Datum values[7] = {
                TimestampTzGetDatum(pg::timestamptz_from_instant(mode.since)),
                TimestampTzGetDatum(pg::timestamptz_from_instant(mode.last_crash)),
                Int32GetDatum(mode.crashes),
                CStringGetTextDatum(pg::crash_watch::name(mode.code)),
                CStringGetTextDatum(mode.activity.c_str()),
                CStringGetTextDatum(mode.user_id.c_str()),
                CStringGetTextDatum(mode.mission_id.c_str()),
            };
            bool nulls[7] = {!safe,
                             !safe,
                             !safe,
                             !safe,
                             !safe || mode.activity.empty(),
                             !safe || mode.mission_id.empty(),
                             !safe || mode.mission_id.empty()};
            return pg::row_result(fcinfo, values, nulls);
        });
    });
}

PG_FUNCTION_INFO_V1(mana_ai_resume_after_crash);
PGDLLEXPORT Datum mana_ai_resume_after_crash(PG_FUNCTION_ARGS) {
    using namespace mana_ai;
    (void)fcinfo;
    return pg::entry_point([] {
        const bool was_safe = pg::crash_watch::resume();
        if (was_safe)
            pg::log_info("safe mode was ended by mana_ai.resume_after_crash()");
        pg::shared_state::wake_worker(MyDatabaseId);
        return BoolGetDatum(was_safe);
    });
}

// The part of status() that is in shared memory.
PG_FUNCTION_INFO_V1(mana_ai_worker_status);
PGDLLEXPORT Datum mana_ai_worker_status(PG_FUNCTION_ARGS) {
    using namespace mana_ai;
    return pg::entry_point([&] {
        const bool preloaded = pg::shared_state::available();
        const auto view = pg::shared_state::worker_of(MyDatabaseId);
        const bool running = view.has_value();
        const int64_t trigger_errors = pg::shared_state::trigger_errors();
        const char* state = running ? view->state.c_str() : "";
        return pg::guarded([&] {
            Datum values[7] = {
                CStringGetTextDatum(MANA_AI_VERSION),
                BoolGetDatum(preloaded),
                Int32GetDatum(running ? view->pid : 0),
                CStringGetTextDatum(state),
                TimestampTzGetDatum(running ? pg::timestamptz_from_instant(view->since) : 0),
                Int32GetDatum(running ? view->in_flight : 0),
                Int64GetDatum(trigger_errors),
            };
            bool nulls[7] = {false, false, !running, !running, !running, false, false};
            return pg::row_result(fcinfo, values, nulls);
        });
    });
}

}  // extern "C"
