// Advisory locks of a private class, held by the process and not by a transaction: pg_locks shows
// them as advisory locks with objsubid 28001, and they never collide with pg_advisory_lock().
#pragma once

#include <cstdint>
#include <memory>

namespace mana_ai::pg {

enum class LockKey : uint32_t {
    Tick = 1,    // at most one tick in a database
    Engine = 2,  // with an engine's number: held as long as that engine lives
};

// Takes the lock without waiting. Held until release or process exit.
bool try_session_lock(LockKey key, uint32_t number = 0);
void release_session_lock(LockKey key, uint32_t number = 0);

// Whether any process holds the lock at the moment. Needs a transaction.
bool is_session_lock_held(LockKey key, uint32_t number);

// Releases what pg_advisory_lock() took in this process; locks of the private class stay. Call it
// outside of transactions: it does not distinguish their locks from the session's.
void release_foreign_session_locks();

// In a client's session: locks that a foreign function takes by pg_advisory_lock() are released at
// the end of the scope, inside the transaction or not. Locks that the session held before stay.
class AdvisoryLockScope {
 public:
    AdvisoryLockScope();
    ~AdvisoryLockScope();
    AdvisoryLockScope(const AdvisoryLockScope&) = delete;
    AdvisoryLockScope& operator=(const AdvisoryLockScope&) = delete;

 private:
    struct Held;
    std::unique_ptr<Held> before_;
};

}  // namespace mana_ai::pg
