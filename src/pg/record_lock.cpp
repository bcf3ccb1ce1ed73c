#include "mana_ai/pg/record_lock.hpp"

#include "mana_ai/pg/postgres.hpp"

extern "C" {
#include "miscadmin.h"
#include "pgstat.h"
#include "portability/instr_time.h"
#include "storage/latch.h"
#include "storage/lock.h"
#include "utils/wait_event.h"
}

namespace mana_ai::pg {

namespace {

// SQL's own advisory locks use 1 and 2 in this place.
constexpr uint16 kLockClass = 28002;

LOCKTAG tag_of(uint64_t hash) {
    LOCKTAG tag;
    SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, static_cast<uint32>(hash >> 32),
                         static_cast<uint32>(hash), kLockClass);
    return tag;
}

}  // namespace

bool try_lock_name(uint64_t hash) {
    const LOCKTAG tag = tag_of(hash);
    return LockAcquire(&tag, ExclusiveLock, false, true) != LOCKACQUIRE_NOT_AVAIL;
}

void unlock_name(uint64_t hash) {
    const LOCKTAG tag = tag_of(hash);
    LockRelease(&tag, ExclusiveLock, false);
}

void lock_name_and_wait(uint64_t hash) {
    const LOCKTAG tag = tag_of(hash);
    LockAcquire(&tag, ExclusiveLock, false, false);
}

void sleep_and_check_interrupts(int milliseconds) {
    instr_time start;
    INSTR_TIME_SET_CURRENT(start);
    bool latch_was_set = false;
    for (int left = milliseconds; left > 0;) {
        const int events = WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, left,
                                     PG_WAIT_EXTENSION);
        if (events & WL_LATCH_SET) {
            ResetLatch(MyLatch);
            latch_was_set = true;
        }
        CHECK_FOR_INTERRUPTS();
        instr_time passed;
        INSTR_TIME_SET_CURRENT(passed);
        INSTR_TIME_SUBTRACT(passed, start);
        left = milliseconds - static_cast<int>(INSTR_TIME_GET_MILLISEC(passed));
    }
    // It was set for code outside of this function.
    if (latch_was_set)
        SetLatch(MyLatch);
}

}  // namespace mana_ai::pg
