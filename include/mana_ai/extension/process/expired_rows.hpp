// Rows whose retention is over, in pieces: none of the transactions of housekeeping is to last
// long, and none waits for a row that somebody else's holds.
#pragma once

#include "mana_ai/core/time/instant.hpp"

namespace mana_ai {

// Deletes a piece of what has expired, in the current transaction. True: there may be more.
bool delete_expired_rows(core::Instant now);

// Looks at some runs of which lineage is kept, each time at the next ones, and deletes it where the
// run is not there any more, in the current transaction.
void sweep_orphaned_lineage();

}  // namespace mana_ai
