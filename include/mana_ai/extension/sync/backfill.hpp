// Folding the history of the attached table into snapshots (docs/contract/data.md, Snapshots).
#pragma once

#include <cstdint>

#include "mana_ai/extension/sync/snapshots.hpp"
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
// is not there yet; with Basis::Nothing also for records that have no row any more, which then go.
// Tells the client about its progress. Throws PgError.
FoldCounts fold_history(Relation log, Snapshot snapshot, Basis basis);

// Brings those records up to date that have rows which the snapshot did not see: what came in
// between the fold and the trigger. The caller holds a lock that keeps writers out.
void catch_up(Relation log, Snapshot snapshot, FoldCounts& counts);

// Adds what was folded to the metrics, if the transaction commits.
void count_fold(const FoldCounts& counts);

// What a thorough pass does about the log as a whole. If it is another table than that whose
// history was folded, it is folded: after a restore of a dump the trigger is there, the snapshots
// are not. So it is when changes could not even be marked. If it was rewritten, records in which
// the places of rows had decided are marked. Throws PgError.
void keep_up_with_log();

// On disk the log is "clean" while no worker runs and none has left changes without a mark: what is
// only counted in memory is lost with the server. A worker that finds it otherwise has to fold it;
// it calls this when it starts, in a transaction, and the other one when it ends. Throws PgError.
bool begin_to_keep_up();  // whether the log was clean
void end_keeping_up();

// mana_ai.refresh_snapshots(), in the current transaction. Throws PgError.
FoldCounts refresh_snapshots(Basis basis);

// Remembers that the history of the relation is folded.
void remember_folded(Oid log);

}  // namespace mana_ai
