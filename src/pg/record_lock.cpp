#include "mana_ai/pg/record_lock.hpp"

#include "mana_ai/pg/postgres.hpp"

extern "C" {
#include "pgstat.h"
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
    pgstat_report_wait_start(PG_WAIT_EXTENSION);
    pg_usleep(1000L * milliseconds);
    pgstat_report_wait_end();
    CHECK_FOR_INTERRUPTS();
}

}  // namespace mana_ai::pg
