// run_tick() and run_mission(): a dynamic background worker does the work, since plans must commit
// one by one and the caller's transaction must not hold a snapshot over model calls
// (docs/contract/tick.md, "Three ways to run it"). Caller and worker talk through a segment of
// shared memory that lives as long as the call.

#include <algorithm>
#include <cstring>
#include <memory>
#include <string>

#include "mana_ai/core/json.hpp"
#include "mana_ai/extension/engine.hpp"
#include "mana_ai/extension/processes.hpp"
#include "mana_ai/extension/worker_session.hpp"
#include "mana_ai/pg/guard.hpp"
#include "mana_ai/pg/log.hpp"
#include "mana_ai/pg/time.hpp"
#include "mana_ai/pg/wait.hpp"
#include "mana_ai/pg/wake.hpp"

extern "C" {
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/pg_type.h"
#include "funcapi.h"
#include "postmaster/bgworker.h"
#include "storage/dsm.h"
#include "storage/ipc.h"
#include "utils/array.h"
#include "utils/resowner.h"
}

namespace mana_ai {

namespace {

constexpr size_t kTextSize = 4096;

// Written by the worker, read by the caller after the worker has ended. No pointers.
struct Answer {
    bool complete;
    int sqlstate;  // not 0: the call failed with this error
    char error_message[kTextSize];
    int64_t scanned_at;
    int due, produced, written_back, parse_failures, skipped;
    int error_count;
    char errors[kTextSize * 2];  // each ends with a NUL
    char outcome[32];
    char iteration_id[40];
    int steps, rounds;
    int64_t tokens;
    char run_error[kTextSize];
    bool has_result;
};

struct Request {
    Oid database;
    bool one_mission;
    uint32_t user_id_length;
    uint32_t mission_id_length;
    Answer answer;
    // user_id and mission_id follow.

    char* ids() { return reinterpret_cast<char*>(this) + MAXALIGN(sizeof(Request)); }
    static size_t size(size_t ids) { return MAXALIGN(sizeof(Request)) + ids; }
};

void put_text(char* place, size_t size, const std::string& text) {
    const size_t length = std::min(text.size(), size - 1);
    memcpy(place, text.data(), length);
    place[length] = '\0';
}

// ---------------------------------------------------------------- the worker's side

void put_counts(const TickCounts& counts, Answer& answer) {
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

// Drives the engine until nothing runs.
void drive_until_idle(Engine& engine, pg::WaitSet& wait_set, core::Instant due_until) {
    constexpr core::Instant kLongestWait = core::kMicrosPerSecond;
    engine.run_ready();
    for (;;) {
        if (engine.work_left() && engine.has_room())
            engine.start_due_missions(due_until);
        engine.start_due_polls(due_until);
        if (!engine.is_busy() && !engine.work_left())
            return;
        wait_set.wait(std::min(engine.timeout_us().value_or(kLongestWait), kLongestWait));
        pg::check_for_interrupts();
        engine.run_ready();
    }
}

// The tick is over and its caller waits: a collector that is slow loses what it has not taken.
void deliver_traces(Engine& engine, pg::WaitSet& wait_set) {
    constexpr core::Instant kGrace = core::kMicrosPerSecond;
    const core::Instant until = pg::now() + kGrace;
    engine.begin_trace_drain();
    try {
        for (core::Instant left = kGrace; left > 0 && !engine.traces_drained();
             left = until - pg::now()) {
            wait_set.wait(std::min(engine.timeout_us().value_or(left), left));
            pg::check_for_interrupts();
            engine.run_ready();
        }
    } catch (const pg::PgError&) {
        // Canceled or terminated: what the tick has done stands all the same.
    }
}

// Runs the work; when it is left by an error, a cancel or a termination request, leases go back.
template <class Work>
void give_back_on_failure(Engine& engine, Work&& work) {
    std::exception_ptr failure;
    try {
        work();
        return;
    } catch (...) {
        failure = std::current_exception();
    }
    const bool terminated = termination_requested();
    take_termination();
    try {
        engine.abandon_runs(std::nullopt);
    } catch (const std::exception&) {
        // The next tick finds our engine gone and frees them.
    }
    if (terminated)
        throw pg::make_error(ERRCODE_ADMIN_SHUTDOWN, "the tick was terminated");
    std::rethrow_exception(failure);
}

void run_whole_tick(Answer& answer) {
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

void run_one_mission(const std::string& user_id, const std::string& mission_id, Answer& answer) {
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

void serve(Request& request) {
    const std::string user_id(request.ids(), request.user_id_length);
    const std::string mission_id(request.ids() + request.user_id_length, request.mission_id_length);
    Answer& answer = request.answer;
    try {
        if (!act_as_extension_owner())
            throw pg::make_error(ERRCODE_UNDEFINED_OBJECT, "extension mana_ai is not installed");
        if (request.one_mission)
            run_one_mission(user_id, mission_id, answer);
        else
            run_whole_tick(answer);
    } catch (const pg::PgError& error) {
        answer.sqlstate = error.sqlstate;
        put_text(answer.error_message, sizeof(answer.error_message), error.message);
    } catch (const std::exception&) {
        answer.sqlstate = ERRCODE_INTERNAL_ERROR;
        put_text(answer.error_message, sizeof(answer.error_message), "internal error in a tick");
    }
    answer.complete = true;
}

// ---------------------------------------------------------------- the caller's side

void check_may_start(const char* function) {
    if (RecoveryInProgress())
        throw pg::make_error(ERRCODE_READ_ONLY_SQL_TRANSACTION,
                             std::string("cannot execute ") + function + " during recovery", {},
                             "Run it on the primary server.");
    if (XactReadOnly)
        throw pg::make_error(
            ERRCODE_READ_ONLY_SQL_TRANSACTION,
            std::string("cannot execute ") + function + " in a read-only transaction", {},
            "Begin the transaction with READ WRITE, or set default_transaction_read_only to off.");
}

extern "C" {
static void terminate_worker(int, Datum handle) {
    TerminateBackgroundWorker(reinterpret_cast<BackgroundWorkerHandle*>(DatumGetPointer(handle)));
}
}

// Starts the worker and waits for its end. However the wait is left, the worker is told to end.
class HandWorker {
 public:
    explicit HandWorker(dsm_segment* segment) {
        handle_ = pg::guarded([segment]() -> BackgroundWorkerHandle* {
            BackgroundWorker worker{};
            worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
            worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
            worker.bgw_restart_time = BGW_NEVER_RESTART;
            worker.bgw_notify_pid = MyProcPid;
            worker.bgw_main_arg = UInt32GetDatum(dsm_segment_handle(segment));
            strlcpy(worker.bgw_library_name, kLibraryName, sizeof(worker.bgw_library_name));
            strlcpy(worker.bgw_function_name, kHandTickMain, sizeof(worker.bgw_function_name));
            strlcpy(worker.bgw_type, "mana_ai tick", sizeof(worker.bgw_type));
            strlcpy(worker.bgw_name, "mana_ai tick by hand", sizeof(worker.bgw_name));
            BackgroundWorkerHandle* handle = nullptr;
            if (!RegisterDynamicBackgroundWorker(&worker, &handle))
                ereport(ERROR, (errcode(ERRCODE_INSUFFICIENT_RESOURCES),
                                errmsg("could not start a background worker for the tick"),
                                errdetail("All slots for background workers are in use."),
                                errhint("You might need to increase max_worker_processes.")));
            // For the case that this backend is terminated while it waits.
            before_shmem_exit(terminate_worker, PointerGetDatum(handle));
            return handle;
        });
    }

    ~HandWorker() {
        if (!ended_)
            TerminateBackgroundWorker(handle_);
        cancel_before_shmem_exit(terminate_worker, PointerGetDatum(handle_));
    }

    HandWorker(const HandWorker&) = delete;
    HandWorker& operator=(const HandWorker&) = delete;

    void wait() {
        const BgwHandleStatus status =
            pg::guarded([this] { return WaitForBackgroundWorkerShutdown(handle_); });
        ended_ = true;
        if (status == BGWH_POSTMASTER_DIED)
            throw pg::make_error(ERRCODE_ADMIN_SHUTDOWN,
                                 "the server ended before the tick was finished");
    }

 private:
    BackgroundWorkerHandle* handle_;
    bool ended_ = false;
};

class Segment {
 public:
    explicit Segment(size_t size) : segment_(pg::guarded([size] { return dsm_create(size, 0); })) {}
    ~Segment() { dsm_detach(segment_); }
    Segment(const Segment&) = delete;
    Segment& operator=(const Segment&) = delete;
    dsm_segment* get() { return segment_; }
    Request* request() { return static_cast<Request*>(dsm_segment_address(segment_)); }

 private:
    dsm_segment* segment_;
};

// Copies the answer into the caller's memory context.
Answer* call_worker(const char* function, bool one_mission, const std::string& user_id,
                    const std::string& mission_id) {
    check_may_start(function);
    Segment segment(Request::size(user_id.size() + mission_id.size()));
    Request* request = segment.request();
    memset(static_cast<void*>(request), 0, sizeof(Request));
    request->database = MyDatabaseId;
    request->one_mission = one_mission;
    request->user_id_length = static_cast<uint32_t>(user_id.size());
    request->mission_id_length = static_cast<uint32_t>(mission_id.size());
    memcpy(request->ids(), user_id.data(), user_id.size());
    memcpy(request->ids() + user_id.size(), mission_id.data(), mission_id.size());
    {
        HandWorker worker(segment.get());
        worker.wait();
    }
    const Answer& answer = request->answer;
    if (!answer.complete)
        throw pg::make_error(
            ERRCODE_INTERNAL_ERROR,
            std::string("the background worker of ") + function + " ended before it was finished",
            {}, "The server's log says why.");
    if (answer.sqlstate != 0)
        throw pg::make_error(answer.sqlstate, answer.error_message);
    auto* copy = pg::guarded([] { return static_cast<Answer*>(palloc(sizeof(Answer))); });
    memcpy(static_cast<void*>(copy), &answer, sizeof(Answer));
    return copy;
}

Datum build_row(FunctionCallInfo fcinfo, Datum* values, bool* nulls) {
    TupleDesc descriptor = nullptr;
    if (get_call_result_type(fcinfo, nullptr, &descriptor) != TYPEFUNC_COMPOSITE)
        elog(ERROR, "return type must be a row type");
    descriptor = BlessTupleDesc(descriptor);
    return HeapTupleGetDatum(heap_form_tuple(descriptor, values, nulls));
}

Datum errors_array(const Answer& answer) {
    auto* elements = static_cast<Datum*>(palloc(sizeof(Datum) * (answer.error_count + 1)));
    const char* text = answer.errors;
    for (int i = 0; i < answer.error_count; i++) {
        elements[i] = CStringGetTextDatum(text);
        text += strlen(text) + 1;
    }
    return PointerGetDatum(
        construct_array(elements, answer.error_count, TEXTOID, -1, false, TYPALIGN_INT));
}

std::string text_argument(FunctionCallInfo fcinfo, int n) {
    const text* value = pg::guarded([=] { return PG_GETARG_TEXT_PP(n); });
    return {VARDATA_ANY(value), static_cast<size_t>(VARSIZE_ANY_EXHDR(value))};
}

}  // namespace

}  // namespace mana_ai

extern "C" {

PGDLLEXPORT void mana_ai_hand_tick_main(Datum segment_handle) {
    using namespace mana_ai;
    pg::entry_point([segment_handle] {
        Request* request = pg::guarded([segment_handle] {
            CurrentResourceOwner = ResourceOwnerCreate(nullptr, "mana_ai tick");
            dsm_segment* segment = dsm_attach(DatumGetUInt32(segment_handle));
            if (segment == nullptr)
                ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
                                errmsg("the caller of a tick is gone")));
            dsm_pin_mapping(segment);
            ResourceOwnerRelease(CurrentResourceOwner, RESOURCE_RELEASE_BEFORE_LOCKS, true, true);
            CurrentResourceOwner = nullptr;
            return static_cast<Request*>(dsm_segment_address(segment));
        });
        connect_worker(request->database, "mana_ai tick");
        serve(*request);
        pg::wake_worker_now();
    });
    proc_exit(0);
}

PG_FUNCTION_INFO_V1(mana_ai_run_tick);
PGDLLEXPORT Datum mana_ai_run_tick(PG_FUNCTION_ARGS) {
    using namespace mana_ai;
    return pg::entry_point([fcinfo] {
        const Answer* answer = call_worker("mana_ai.run_tick()", false, {}, {});
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
            return build_row(fcinfo, values, nulls);
        });
    });
}

PG_FUNCTION_INFO_V1(mana_ai_run_mission);
PGDLLEXPORT Datum mana_ai_run_mission(PG_FUNCTION_ARGS) {
    using namespace mana_ai;
    return pg::entry_point([fcinfo] {
        const std::string user_id = text_argument(fcinfo, 0);
        const std::string mission_id = text_argument(fcinfo, 1);
        const Answer* answer = call_worker("mana_ai.run_mission()", true, user_id, mission_id);
        return pg::guarded([=] {
            Datum values[6] = {
                CStringGetTextDatum(answer->outcome), CStringGetTextDatum(answer->iteration_id),
                Int32GetDatum(answer->steps),         Int32GetDatum(answer->rounds),
                Int64GetDatum(answer->tokens),        CStringGetTextDatum(answer->run_error),
            };
            bool nulls[6] = {false, answer->iteration_id[0] == '\0', false, false,
                             false, answer->run_error[0] == '\0'};
            return build_row(fcinfo, values, nulls);
        });
    });
}

}  // extern "C"
