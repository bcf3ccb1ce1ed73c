#include "mana_ai/pg/termination.hpp"

#include "mana_ai/pg/guard.hpp"

extern "C" {
#include "miscadmin.h"
#include "storage/latch.h"
#include "utils/guc.h"
}

namespace mana_ai::pg {

namespace {

volatile sig_atomic_t termination_pending = false;
volatile sig_atomic_t terminating = false;

extern "C" {
static void on_sigterm(SIGNAL_ARGS) {
    // The postmaster signals a child and then its process group, so each request comes twice. The
    // second one must not cancel what the first one has begun.
    if (terminating)
        return;
    const int saved_errno = errno;
    termination_pending = true;
    InterruptPending = true;
    QueryCancelPending = true;
    SetLatch(MyLatch);
    errno = saved_errno;
    (void)postgres_signal_arg;
}
}

}  // namespace

void install_termination_handler() {
    pqsignal(SIGTERM, on_sigterm);
}

bool termination_requested() {
    return termination_pending;
}

void take_termination() {
    terminating = true;
    termination_pending = false;
    QueryCancelPending = false;
}

// The signal cancels only a wait for a standby that has already begun.
void commit_without_standby_if_terminating() {
    if (!terminating && !termination_pending)
        return;
    guarded([] { SetConfigOption("synchronous_commit", "local", PGC_SUSET, PGC_S_OVERRIDE); });
}

}  // namespace mana_ai::pg
