#include "mana_ai/pg/lock_waiters.hpp"

#include <cstring>

#include "mana_ai/pg/time.hpp"

extern "C" {
#include "miscadmin.h"
#include "storage/lock.h"
}

namespace mana_ai::pg {

namespace {

constexpr core::Instant kReadAgain = 1'000'000;

// Of those that wait as well as of those that have it. A lock of the fast path does not count, but
// nobody waits for that: a request that conflicts moves it into the shared table.
int requests_of(Oid relation) {
    LOCKTAG tag;
    SET_LOCKTAG_RELATION(tag, MyDatabaseId, relation);
    return LockWaiterCount(&tag);
}

bool is_waited_for(const LockData& locks, Oid relation) {
    LOCKTAG tag;
    SET_LOCKTAG_RELATION(tag, MyDatabaseId, relation);
    for (int i = 0; i < locks.nelements; i++) {
        const LockInstanceData& lock = locks.locks[i];
        // Only AccessExclusiveLock conflicts with a reader's.
        if (lock.waitLockMode == AccessExclusiveLock && lock.pid != MyProcPid &&
            std::memcmp(&lock.locktag, &tag, sizeof tag) == 0)
            return true;
    }
    return false;
}

}  // namespace

Oid LockWaiters::find(const List* relations) {
    int64_t requests = 0;
    ListCell* cell;
    foreach (cell, relations)
        requests += requests_of(lfirst_oid(cell));
    const core::Instant now = monotonic_now();
    if (requests == 0 || (requests == requests_ && now < read_at_ + kReadAgain))
        return InvalidOid;
    requests_ = requests;
    read_at_ = now;
    LockData* locks = GetLockStatusData();
    Oid found = InvalidOid;
    foreach (cell, relations) {
        if (is_waited_for(*locks, lfirst_oid(cell))) {
            found = lfirst_oid(cell);
            break;
        }
    }
    pfree(locks->locks);
    pfree(locks);
    return found;
}

}  // namespace mana_ai::pg
