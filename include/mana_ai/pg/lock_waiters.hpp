#pragma once

#include <cstdint>

#include "mana_ai/core/time/instant.hpp"
#include "mana_ai/pg/postgres.hpp"

extern "C" {
#include "nodes/pg_list.h"
}

namespace mana_ai::pg {

// Whether sessions wait for locks of relations of this database that this one has locked for
// reading (AccessShareLock). Since PostgreSQL 17 a request without waiting, for one more lock, does
// not tell: whoever has a lock is let through before those that wait.
class LockWaiters {
 public:
    // The first of the relations (oids) that a session waits for, or InvalidOid. Reads the whole
    // lock table only if the number of requests has changed, or a second has passed. May
    // ereport(ERROR).
    Oid find(const List* relations);

 private:
    int64_t requests_ = 0;
    core::Instant read_at_ = 0;
};

}  // namespace mana_ai::pg
