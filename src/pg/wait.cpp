#include "mana_ai/pg/wait.hpp"

#include <algorithm>

#include "mana_ai/pg/compat.hpp"
#include "mana_ai/pg/crash_watch.hpp"
#include "mana_ai/pg/guard.hpp"

extern "C" {
#include "access/xact.h"
#include "pgstat.h"
}

namespace mana_ai::pg {

WaitSet::WaitSet(int fd) {
    set_ = guarded([fd] {
        WaitEventSet* set = compat::create_wait_event_set(3);
        AddWaitEventToSet(set, WL_LATCH_SET, PGINVALID_SOCKET, MyLatch, nullptr);
        AddWaitEventToSet(set, WL_EXIT_ON_PM_DEATH, PGINVALID_SOCKET, nullptr, nullptr);
        AddWaitEventToSet(set, WL_SOCKET_READABLE, fd, nullptr, nullptr);
        return set;
    });
}

WaitSet::~WaitSet() {
    FreeWaitEventSet(static_cast<WaitEventSet*>(set_));
}

bool WaitSet::wait(int64_t timeout_us) {
    Assert(!IsTransactionOrTransactionBlock());
    // Rounded up: waking up a millisecond early would spin until the time has come.
    const int64_t timeout_ms =
        std::clamp<int64_t>((timeout_us + 999) / 1000, 0, int64_t{3600} * 1000);
    crash_watch::note_activity("mana_ai: waiting");
    const bool latch_was_set = guarded([&] {
        WaitEvent events[3];
        bool is_set = false;
        const int count = WaitEventSetWait(static_cast<WaitEventSet*>(set_), timeout_ms, events, 3,
                                           PG_WAIT_EXTENSION);
        for (int i = 0; i < count; i++)
            if ((events[i].events & WL_LATCH_SET) != 0) {
                ResetLatch(MyLatch);
                is_set = true;
            }
        return is_set;
    });
    crash_watch::note_activity("mana_ai: between transactions");
    return latch_was_set;
}

}  // namespace mana_ai::pg
