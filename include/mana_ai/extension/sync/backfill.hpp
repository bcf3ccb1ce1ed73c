// Folding the history of the attached table into snapshots (docs/contract/data.md, Snapshots).
#pragma once

#include <cstdint>

#include "mana_ai/pg/postgres.hpp"

extern "C" {
#include "utils/rel.h"
#include "utils/snapshot.h"
}

namespace mana_ai {

struct FoldCounts {
    int64_t new_snapshots = 0;
    int64_t updated_snapshots = 0;
    int64_t rows_applied = 0;
};

// Waits until no other fold of a history runs in this database; holds until the transaction's end.
// May ereport(ERROR).
void serialize_folds();

// Folds all rows of missions and agents that the snapshot sees, in bounded memory, and stores what
// is not there yet. Tells the client about its progress. Throws PgError.
FoldCounts fold_history(Relation log, Snapshot snapshot);

// Brings those records up to date that have rows which the snapshot did not see: what came in
// between the fold and the trigger. The caller holds a lock that keeps writers out.
void catch_up(Relation log, Snapshot snapshot, FoldCounts& counts);

// Adds what was folded to the metrics, if the transaction commits; before
// drop_snapshots_without_log(), whose work the repair counts.
void count_fold(const FoldCounts& counts);

// Removes snapshots and tombstones of records that have no row in the log any more. Throws PgError.
void drop_snapshots_without_log(Relation log, FoldCounts& counts);

// Whether the attached table is another one than that whose history was folded: after a restore of
// a dump the trigger is there, the snapshots are not.
bool history_is_missing();

// refresh_snapshots() as the engine calls it, in the current transaction.
FoldCounts refresh_snapshots();

// Remembers that the history of the relation is folded; InvalidOid forgets it.
void remember_folded(Oid log);

}  // namespace mana_ai
