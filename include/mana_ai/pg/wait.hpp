// Waiting for the latch, the network and the postmaster's death at once.
#pragma once

#include <cstdint>

namespace mana_ai::pg {

// Waits until the process's latch is set, `fd` (an epoll descriptor) is readable, or the time is
// over; leaves the process when the postmaster died. Resets the latch. Holding a transaction while
// calling this is a bug (asserted).
class WaitSet {
 public:
    explicit WaitSet(int fd);
    ~WaitSet();
    WaitSet(const WaitSet&) = delete;
    WaitSet& operator=(const WaitSet&) = delete;

    // True when the latch was set: somebody wants something.
    bool wait(int64_t timeout_us);

 private:
    void* set_;  // WaitEventSet*
};

}  // namespace mana_ai::pg
