// Short locks on things that have no row yet, and a short sleep between two attempts.
//
// The locks are advisory locks of a private class (pg_locks: advisory, objsubid 28002) and end with
// the transaction at the latest. The functions may ereport(ERROR): call them inside guarded().
#pragma once

#include <cstdint>

namespace mana_ai::pg {

// Never waits. Different names may share a hash, which only costs a retry.
bool try_lock_name(uint64_t hash);
void unlock_name(uint64_t hash);

// Waits, with deadlock detection; held until the end of the transaction.
void lock_name_and_wait(uint64_t hash);

// Sleeps, and handles a cancel or a termination as soon as it arrives. A latch that was set is set
// again afterwards.
void sleep_and_check_interrupts(int milliseconds);

}  // namespace mana_ai::pg
