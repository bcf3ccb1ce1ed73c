#include "mana_ai/pg/session_lock.hpp"

#include "mana_ai/pg/guard.hpp"
#include "mana_ai/pg/postgres.hpp"

extern "C" {
#include "storage/lock.h"
}

namespace mana_ai::pg {

namespace {

// SQL's own advisory locks use 1 and 2 in this place.
constexpr uint16 kLockClass = 28001;

LOCKTAG tag_of(LockKey key, uint32_t number) {
    LOCKTAG tag;
    SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, static_cast<uint32>(key), number, kLockClass);
    return tag;
}

bool acquire(LockKey key, uint32_t number, bool for_session) {
    return guarded([=] {
        const LOCKTAG tag = tag_of(key, number);
        return LockAcquire(&tag, ExclusiveLock, for_session, true) != LOCKACQUIRE_NOT_AVAIL;
    });
}

}  // namespace

bool try_session_lock(LockKey key, uint32_t number) {
    return acquire(key, number, true);
}

void release_session_lock(LockKey key, uint32_t number) {
    guarded([=] {
        const LOCKTAG tag = tag_of(key, number);
        LockRelease(&tag, ExclusiveLock, true);
    });
}

bool is_session_lock_held(LockKey key, uint32_t number) {
    if (!acquire(key, number, false))
        return true;
    guarded([=] {
        const LOCKTAG tag = tag_of(key, number);
        LockRelease(&tag, ExclusiveLock, false);
    });
    return false;
}

}  // namespace mana_ai::pg
