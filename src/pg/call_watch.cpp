#include "mana_ai/pg/call_watch.hpp"

#include "mana_ai/pg/compat.hpp"

extern "C" {
#include "storage/latch.h"
#include "tcop/tcopprot.h"
#include "utils/timeout.h"
}

namespace mana_ai::pg {

namespace {

constexpr int kRepeatMs = 100;
constexpr int kLastRepeat = 50;

// Events since the present call began.
volatile sig_atomic_t times_up = 0;   // how often the timer has gone off
volatile sig_atomic_t swallowed = 0;  // how often its cancel was delivered without effect
volatile sig_atomic_t cancels = 0;    // of operators

TimeoutId timer = USER_TIMEOUT;
bool is_watching = false;

extern "C" {
// Ends the function like a cancel. If a function catches every cancel, the process ends, which is
// better than a process that neither works nor shuts down.
static void on_timeout(void) {
    // A pending cancel was not swallowed: the function is in code that cannot be interrupted.
    if (times_up > 0 && !QueryCancelPending)
        swallowed = swallowed + 1;
    times_up = times_up + 1;
    if (swallowed > kLastRepeat)
        ProcDiePending = true;
    InterruptPending = true;
    QueryCancelPending = true;
    SetLatch(MyLatch);
}

static void on_sigint(SIGNAL_ARGS) {
    // PostgreSQL's lock timeout uses this signal, too; the function may handle it.
    if (!get_timeout_indicator(LOCK_TIMEOUT, false))
        cancels = cancels + 1;
    StatementCancelHandler(postgres_signal_arg);
}
}

}  // namespace

CallWatch::CallWatch(int64_t limit_us) : is_outermost_(!is_watching) {
    if (!is_outermost_)
        return;
    times_up = 0;
    swallowed = 0;
    cancels = 0;
    guarded([limit_us] {
        static const TimeoutId id = RegisterTimeout(USER_TIMEOUT, on_timeout);
        timer = id;
        pqsignal(SIGINT, on_sigint);
        // Repeatedly: a function may catch a cancel and continue.
        compat::enable_repeated_timeout(id, limit_us, kRepeatMs);
    });
    is_watching = true;
}

CallWatch::~CallWatch() {
    if (!is_outermost_)
        return;
    is_watching = false;
    disable_timeout(timer, false);
    // The caller reads the counts and handles the events that the function has not.
    if ((times_up > 0 || cancels > 0) && !termination_requested())
        QueryCancelPending = false;
    pqsignal(SIGINT, StatementCancelHandler);
}

bool CallWatch::timed_out() {
    return times_up > 0;
}

bool CallWatch::was_canceled() {
    return cancels > 0;
}

PgError make_timeout_error() {
    return make_error(ERRCODE_PROGRAM_LIMIT_EXCEEDED,
                      "code of the table's owner did not end within the time limit", {},
                      "The limit is mana_ai.sync_table_timeout.");
}

PgError as_ordinary_error(PgError error) {
    if (error.is_interrupt())
        error.sqlstate = ERRCODE_EXTERNAL_ROUTINE_EXCEPTION;
    return error;
}

}  // namespace mana_ai::pg
