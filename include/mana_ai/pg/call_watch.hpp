// A time limit for foreign code: resolvers, and code that the owner of mana-sync's table has added
// to it (triggers, policies, defaults). This code runs on the event loop and blocks it.
#pragma once

#include <cstdint>
#include <optional>
#include <utility>

#include "mana_ai/pg/guard.hpp"
#include "mana_ai/pg/termination.hpp"
#include "mana_ai/pg/time.hpp"

namespace mana_ai::pg {

// Ends the code in its scope like a cancel when its time is up, and records what happened during
// it. The SQLSTATE of an error does not show that: foreign code can raise any. Inside another watch
// (foreign code that calls our functions) it does nothing: the outer limit holds.
class CallWatch {
 public:
    explicit CallWatch(int64_t limit_us);
    ~CallWatch();
    CallWatch(const CallWatch&) = delete;
    CallWatch& operator=(const CallWatch&) = delete;

    // Of the last watch of this process.
    static bool timed_out();
    static bool was_canceled();  // by an operator, or by the client's statement_timeout

 private:
    bool is_outermost_;
};

struct WatchedCall {
    std::optional<PgError> error;
    bool timed_out = false;
    int64_t took_us = 0;
};

// Runs f under a watch. Throws PgError only if the whole process was interrupted; an error of f
// that merely looks like an interrupt is in the result.
template <class F>
WatchedCall watch_call(int64_t limit_us, F&& f);

// The error of a call that was not finished in time. Not an interrupt.
PgError make_timeout_error();

// The same error with an SQLSTATE that does not count as an interrupt.
PgError as_ordinary_error(PgError error);

template <class F>
WatchedCall watch_call(int64_t limit_us, F&& f) {
    WatchedCall result;
    const int64_t started = monotonic_now();
    {
        const CallWatch watch(limit_us);
        try {
            std::forward<F>(f)();
        } catch (const PgError& error) {
            result.error = error;
        }
    }
    result.took_us = monotonic_now() - started;
    result.timed_out = CallWatch::timed_out();
    if (CallWatch::was_canceled() || termination_requested())
        throw result.error && result.error->is_interrupt()
            ? *result.error
            : make_error(ERRCODE_QUERY_CANCELED, "canceling foreign code due to user request");
    return result;
}

}  // namespace mana_ai::pg
