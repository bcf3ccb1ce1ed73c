#include "mana_ai/pg/session_lock.hpp"

#include <cstring>
#include <set>

#include "mana_ai/pg/compat.hpp"
#include "mana_ai/pg/guard.hpp"

extern "C" {
#include "storage/lock.h"
#include "storage/lwlock.h"
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

struct HeldLock {
    LOCKTAG tag;
    LOCKMODE mode;  // NoLock: none was found
};

bool operator<(const HeldLock& a, const HeldLock& b) {
    const int order = std::memcmp(&a.tag, &b.tag, sizeof a.tag);
    return order < 0 || (order == 0 && a.mode < b.mode);
}

HeldLock as_foreign(const PROCLOCK* held, const std::set<HeldLock>& except) {
    const LOCKTAG& tag = held->tag.myLock->tag;
    const bool foreign = tag.locktag_type == LOCKTAG_ADVISORY &&
                         (tag.locktag_field4 == 1 || tag.locktag_field4 == 2);
    for (LOCKMODE mode = 1; foreign && mode < MAX_LOCKMODES; mode++)
        if ((held->holdMask & LOCKBIT_ON(mode)) != 0 && !except.contains({tag, mode}))
            return {tag, mode};
    return {tag, NoLock};
}

// One of this process's advisory locks of SQL's classes in the partition, except those.
HeldLock find_foreign_lock(int partition, const std::set<HeldLock>& except) {
    HeldLock found{};
    compat::each_held_lock(partition, [&](const PROCLOCK* held) {
        found = as_foreign(held, except);
        return found.mode != NoLock;
    });
    return found;
}

void release_foreign_locks(const std::set<HeldLock>& except) {
    guarded([&except] {
        for (int partition = 0; partition < NUM_LOCK_PARTITIONS; partition++)
            for (HeldLock held = find_foreign_lock(partition, except); held.mode != NoLock;
                 held = find_foreign_lock(partition, except))
                // A lock that was taken twice is found and released twice.
                if (!LockRelease(&held.tag, held.mode, true))
                    break;
    });
}

}  // namespace

struct AdvisoryLockScope::Held {
    std::set<HeldLock> locks;
};

AdvisoryLockScope::AdvisoryLockScope() : before_(std::make_unique<Held>()) {
    std::set<HeldLock>& locks = before_->locks;
    for (int partition = 0; partition < NUM_LOCK_PARTITIONS; partition++)
        for (HeldLock held = find_foreign_lock(partition, locks); held.mode != NoLock;
             held = find_foreign_lock(partition, locks))
            locks.insert(held);
}

AdvisoryLockScope::~AdvisoryLockScope() {
    try {
        release_foreign_locks(before_->locks);
    } catch (const PgError&) {
        // They stay until the session ends.
    }
}

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

void release_foreign_session_locks() {
    release_foreign_locks({});
}

}  // namespace mana_ai::pg
