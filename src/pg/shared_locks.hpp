// Locks of the shared memory, for the files that keep something in it.
#pragma once

#include "mana_ai/pg/postgres.hpp"

extern "C" {
#include "storage/lwlock.h"
}

namespace mana_ai::pg {

enum class SharedLock { State, MetricSeries, WatchFilters };
inline constexpr int kSharedLocks = 3;

// Held exclusively until the end of the scope. Without preloading nothing is shared, and there is
// nothing to lock. Do not raise an error in the scope.
class SharedLockScope {
 public:
    explicit SharedLockScope(SharedLock which);
    ~SharedLockScope();
    SharedLockScope(const SharedLockScope&) = delete;
    SharedLockScope& operator=(const SharedLockScope&) = delete;

 private:
    LWLock* lock_;
};

}  // namespace mana_ai::pg
