// A limit for the time of foreign code: resolvers, and what the owner of mana-sync's table has put
// on it (triggers, policies, defaults). It runs on the event loop, so while it does nothing else
// gets on.
#pragma once

#include <cstdint>
#include <optional>
#include <utility>

#include "mana_ai/pg/guard.hpp"
#include "mana_ai/pg/termination.hpp"
#include "mana_ai/pg/time.hpp"

namespace mana_ai::pg {

// Ends what runs in its scope, as a cancel does, when its time is up, and notes what came in
// meanwhile. The SQLSTATE of an error would not tell: foreign code can raise any.
class CallWatch {
 public:
    explicit CallWatch(int64_t limit_us);
    ~CallWatch();
    CallWatch(const CallWatch&) = delete;
    CallWatch& operator=(const CallWatch&) = delete;

    // Of the last watch of this process.
    static bool timed_out();
    static bool was_canceled();  // by an operator, or by the client's statement_timeout
};

struct WatchedCall {
    std::optional<PgError> error;
    bool timed_out = false;
    int64_t took_us = 0;
};

// Runs f under a watch. Throws PgError only when the whole process was told to stop what it does;
// an error of f that merely looks like that is in the result.
template <class F>
WatchedCall watch_call(int64_t limit_us, F&& f);

// An error that stands for a call that was not finished in time. Not an interrupt.
PgError make_timeout_error();

// The same error with an SQLSTATE that nobody takes for an interrupt.
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
