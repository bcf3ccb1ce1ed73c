// Waiting for the latch, the network and the postmaster's death at once.
#pragma once

#include <cstdint>

namespace mana_ai::pg {

// Waits until the process's latch is set, `fd` (an epoll descriptor) is readable, or the time is
// over; exits the process if the postmaster died. Resets the latch. Calling it with an open
// transaction is a bug (asserted).
class WaitSet {
 public:
    explicit WaitSet(int fd);
    ~WaitSet();
    WaitSet(const WaitSet&) = delete;
    WaitSet& operator=(const WaitSet&) = delete;

    // True if the latch was set.
    bool wait(int64_t timeout_us);

 private:
    void* set_;  // WaitEventSet*
};

}  // namespace mana_ai::pg
