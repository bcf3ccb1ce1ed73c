// run_tick() and run_mission(): a dynamic background worker does the work, since plans must commit
// one by one and the caller's transaction must not hold an MVCC snapshot over model calls
// (docs/contract/tick.md, "Three ways to run it"; tick_process.hpp starts it).

#include <algorithm>
#include <cstring>
#include <memory>
#include <optional>
#include <string>

#include "mana_ai/core/text/json.hpp"
#include "mana_ai/extension/process/background_worker.hpp"
#include "mana_ai/extension/process/engine.hpp"
#include "mana_ai/extension/process/tick_process.hpp"
#include "mana_ai/extension/process/worker_session.hpp"
#include "mana_ai/pg/failpoint.hpp"
#include "mana_ai/pg/function_call.hpp"
#include "mana_ai/pg/guard.hpp"
#include "mana_ai/pg/log.hpp"
#include "mana_ai/pg/termination.hpp"
#include "mana_ai/pg/time.hpp"
#include "mana_ai/pg/wait.hpp"
#include "mana_ai/pg/wake.hpp"

extern "C" {
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "storage/dsm.h"
#include "storage/ipc.h"
#include "utils/array.h"
}

namespace mana_ai {

namespace {

void put_text(char* place, size_t size, const std::string& text) {
    const size_t length = std::min(text.size(), size - 1);
    memcpy(place, text.data(), length);
    place[length] = '\0';
}

// ---------------------------------------------------------------- the worker's side

void put_counts(const TickCounts& counts, TickAnswer& answer) {
    answer.scanned_at = counts.scanned_at;
    answer.due = counts.due;
    answer.produced = counts.produced;
    answer.written_back = counts.written_back;
    answer.parse_failures = counts.parse_failures;
    answer.skipped = counts.skipped;
    size_t used = 0;
    for (const std::string& error : counts.errors) {
        if (used + error.size() + 1 > sizeof(answer.errors))
            break;
        memcpy(answer.errors + used, error.c_str(), error.size() + 1);
        used += error.size() + 1;
        answer.error_count++;
    }
}

// Drives the engine until nothing is running.
void drive_until_idle(Engine& engine, pg::WaitSet& wait_set, core::Instant due_until) {
    constexpr core::Instant kLongestWait = core::kMicrosPerSecond;
    engine.run_ready();
    for (;;) {
        if (engine.work_left() && engine.has_room())
            engine.start_due_missions(due_until);
        engine.start_due_polls(due_until);
        if (!engine.is_busy() && !engine.work_left())
            return;
        // The tick's caller is told, and the missions stay due.
        if (!engine.is_busy() && engine.service_is_away()) {
            engine.note_error(engine.service_problem());
            return;
        }
        core::Instant wait = engine.timeout_us().value_or(kLongestWait);
        if (const auto room_at = engine.work_left() ? engine.room_at() : std::nullopt)
            wait = std::min(wait, std::max<core::Instant>(*room_at - pg::monotonic_now(), 0));
        wait_set.wait(std::min(wait, kLongestWait));
        pg::check_for_interrupts();
        engine.run_ready();
        engine.report_services(false);
    }
}

// The tick has ended and its caller waits: spans that a slow collector has not accepted are lost,
// and the engine's destructor counts them as dropped.
void deliver_traces(Engine& engine, pg::WaitSet& wait_set) {
    constexpr core::Instant kGrace = core::kMicrosPerSecond;
    const core::Instant until = pg::monotonic_now() + kGrace;
    engine.begin_trace_drain();
    try {
        for (core::Instant left = kGrace; left > 0 && !engine.traces_drained();
             left = until - pg::monotonic_now()) {
            wait_set.wait(std::min(engine.timeout_us().value_or(left), left));
            pg::check_for_interrupts();
            engine.run_ready();
        }
    } catch (const pg::PgError&) {
        // Canceled or terminated: what the tick has done is kept.
    }
}

// Runs the work; after an error, a cancel or a termination request, leases are released.
template <class Work>
void give_back_on_failure(Engine& engine, Work&& work) {
    std::exception_ptr failure;
    try {
        work();
        return;
    } catch (...) {
        failure = std::current_exception();
    }
    const bool terminated = pg::termination_requested();
    pg::take_termination();
    try {
        engine.abandon_runs(std::nullopt);
    } catch (const std::exception&) {
        // The next tick finds this engine dead and frees them.
    }
    if (terminated)
        throw pg::make_error(ERRCODE_ADMIN_SHUTDOWN, "the tick was terminated");
    std::rethrow_exception(failure);
}

void run_whole_tick(TickAnswer& answer) {
    Engine engine("run_tick");
    if (!engine.begin_tick()) {
        TickCounts counts;
        counts.scanned_at = pg::now();
        counts.errors.emplace_back("overlap-skipped");
        put_counts(counts, answer);
        return;
    }
    pg::WaitSet wait_set(engine.poll_fd());
    give_back_on_failure(engine, [&] {
        engine.keep_house(true);
        const core::Instant due_until = pg::now();
        engine.start_due_missions(due_until);
        drive_until_idle(engine, wait_set, due_until);
    });
    put_counts(engine.counts(), answer);
    engine.end_tick();
    deliver_traces(engine, wait_set);
}

void run_one_mission(const std::string& user_id, const std::string& mission_id,
                     TickAnswer& answer) {
    Engine engine("run_mission");
    pg::WaitSet wait_set(engine.poll_fd());
    give_back_on_failure(engine, [&] {
        engine.start_mission(user_id, mission_id);
        drive_until_idle(engine, wait_set, 0);
    });
    answer.has_result = true;
    if (const auto& result = engine.last_result()) {
        put_text(answer.outcome, sizeof(answer.outcome),
                 result->outcome == RunOutcome::Skipped ? result->decision : name(result->outcome));
        put_text(answer.iteration_id, sizeof(answer.iteration_id), result->iteration_id);
        answer.steps = result->steps;
        answer.rounds = result->rounds;
        answer.tokens = result->total_tokens;
        std::string error = result->error_kind;
        if (!result->error_message.empty())
            error += ": " + result->error_message;
        put_text(answer.run_error, sizeof(answer.run_error), error);
    } else if (!engine.last_skipped().empty()) {
        put_text(answer.outcome, sizeof(answer.outcome), engine.last_skipped().front().decision);
    } else {
        put_text(answer.outcome, sizeof(answer.outcome), "skipped-inactive");
    }
    deliver_traces(engine, wait_set);
}

void serve(TickRequest& request) {
    const std::string user_id(request.ids(), request.user_id_length);
    const std::string mission_id(request.ids() + request.user_id_length, request.mission_id_length);
    TickAnswer& answer = request.answer;
    try {
        MANA_AI_FAILPOINT("hand.started");
        if (!act_as_extension_owner())
            throw pg::make_error(ERRCODE_UNDEFINED_OBJECT, "extension mana_ai is not installed");
        if (request.one_mission)
            run_one_mission(user_id, mission_id, answer);
        else
            run_whole_tick(answer);
        MANA_AI_FAILPOINT("hand.before_answer");
    } catch (const pg::PgError& error) {
        answer.sqlstate = error.sqlstate;
        put_text(answer.error_message, sizeof(answer.error_message), error.message);
    } catch (const std::exception&) {
        answer.sqlstate = ERRCODE_INTERNAL_ERROR;
        put_text(answer.error_message, sizeof(answer.error_message), "internal error in a tick");
    }
    answer.complete = true;
    MANA_AI_FAILPOINT("hand.after_answer");
}

// ---------------------------------------------------------------- the caller's side

// Copies the answer into the caller's memory context.
TickAnswer* call_worker(const char* function, bool one_mission, const std::string& user_id,
                        const std::string& mission_id) {
    check_may_start(function);
    std::optional<TickProcess> process;
    if (one_mission)
        process.emplace(MyDatabaseId, user_id, mission_id);
    else
        process.emplace(MyDatabaseId);
    process->wait();
    const TickAnswer& answer = process->answer(function);
    auto* copy = pg::guarded([] { return static_cast<TickAnswer*>(palloc(sizeof(TickAnswer))); });
    memcpy(static_cast<void*>(copy), &answer, sizeof(TickAnswer));
    return copy;
}

Datum errors_array(const TickAnswer& answer) {
    auto* elements = static_cast<Datum*>(palloc(sizeof(Datum) * (answer.error_count + 1)));
    const char* text = answer.errors;
    for (int i = 0; i < answer.error_count; i++) {
        elements[i] = CStringGetTextDatum(text);
        text += strlen(text) + 1;
    }
    return PointerGetDatum(
        construct_array(elements, answer.error_count, TEXTOID, -1, false, TYPALIGN_INT));
}

}  // namespace

}  // namespace mana_ai

extern "C" {

PGDLLEXPORT void mana_ai_hand_tick_main(Datum segment_handle) {
    using namespace mana_ai;
    pg::entry_point([segment_handle] {
        auto* request = static_cast<TickRequest*>(
            dsm_segment_address(attach_segment_of_caller(DatumGetUInt32(segment_handle))));
        connect_worker(request->database, "mana_ai tick", pg::crash_watch::Code::Tick);
        serve(*request);
        pg::wake_worker_now();
    });
    proc_exit(0);
}

PG_FUNCTION_INFO_V1(mana_ai_run_tick);
PGDLLEXPORT Datum mana_ai_run_tick(PG_FUNCTION_ARGS) {
    using namespace mana_ai;
    return pg::entry_point([fcinfo] {
        const TickAnswer* answer = call_worker("mana_ai.run_tick()", false, {}, {});
        return pg::guarded([=] {
            Datum values[7] = {
                TimestampTzGetDatum(pg::timestamptz_from_instant(answer->scanned_at)),
                Int32GetDatum(answer->due),
                Int32GetDatum(answer->produced),
                Int32GetDatum(answer->written_back),
                Int32GetDatum(answer->parse_failures),
                Int32GetDatum(answer->skipped),
                errors_array(*answer),
            };
            bool nulls[7] = {};
            return pg::row_result(fcinfo, values, nulls);
        });
    });
}

PG_FUNCTION_INFO_V1(mana_ai_run_mission);
PGDLLEXPORT Datum mana_ai_run_mission(PG_FUNCTION_ARGS) {
    using namespace mana_ai;
    return pg::entry_point([fcinfo] {
        const std::string user_id = pg::text_argument(fcinfo, 0);
        const std::string mission_id = pg::text_argument(fcinfo, 1);
        const TickAnswer* answer = call_worker("mana_ai.run_mission()", true, user_id, mission_id);
        return pg::guarded([=] {
            Datum values[6] = {
                CStringGetTextDatum(answer->outcome), CStringGetTextDatum(answer->iteration_id),
                Int32GetDatum(answer->steps),         Int32GetDatum(answer->rounds),
                Int64GetDatum(answer->tokens),        CStringGetTextDatum(answer->run_error),
            };
            bool nulls[6] = {false, answer->iteration_id[0] == '\0', false, false,
                             false, answer->run_error[0] == '\0'};
            return pg::row_result(fcinfo, values, nulls);
        });
    });
}

}  // extern "C"
