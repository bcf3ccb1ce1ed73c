// Rows whose retention is over, deleted in pieces: housekeeping's transactions are short, and do
// not wait for rows that other transactions hold.
#pragma once

#include "mana_ai/core/time/instant.hpp"

namespace mana_ai {

// Deletes some expired rows, in the current transaction. True: there may be more.
bool delete_expired_rows(core::Instant now);

// Checks some runs that have lineage, the next ones each time, and deletes the lineage of runs that
// no longer exist, in the current transaction.
void sweep_orphaned_lineage();

}  // namespace mana_ai
