// Caches of facts about tables forget them when a table changes. PostgreSQL has ten places for
// callbacks that hear of this in a process and ends a session that needs one more, so we take one.
#pragma once

#include <cstdint>

#include "mana_ai/pg/postgres.hpp"

namespace mana_ai::pg {

// Once, when the library is loaded: a session with all places in use must not end because of its
// first insert into the log.
void register_relation_callback();

// Has `forget` called with the OID of a table that may have changed, or InvalidOid for any table.
// It must not raise an error. Passing the same function again does nothing.
using ForgetRelation = void (*)(Oid);
void on_relation_change(ForgetRelation forget);

// Grows with every such change, beginning above 0. Facts that were read while it grew may already
// be outdated.
uint64_t relation_changes();

}  // namespace mana_ai::pg
