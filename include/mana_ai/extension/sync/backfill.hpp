// Folding the history of the attached table into snapshots (docs/contract/data.md, Snapshots).
#pragma once

#include <cstdint>
#include <vector>

#include "mana_ai/extension/sync/folded_leaves.hpp"
#include "mana_ai/extension/sync/history_fold.hpp"
#include "mana_ai/extension/sync/log_leaves.hpp"
#include "mana_ai/extension/sync/snapshots.hpp"
#include "mana_ai/pg/postgres.hpp"

extern "C" {
#include "utils/rel.h"
#include "utils/snapshot.h"
}

namespace mana_ai {

// Waits until no other fold of the history runs in this database, and excludes others until the
// transaction's end. May ereport(ERROR).
void serialize_folds();
bool try_to_serialize_folds();  // the same without waiting

// Leaves that stay open while they are folded, so that nobody drops them.
struct OpenLeaves {
    int count = 0;
    Relation* relations = nullptr;
    LeavesInUse in_use;
};
// Those of the list that still exist. Waits for their locks. May ereport(ERROR).
OpenLeaves open_leaves(List* leaves);
void close_leaves(const OpenLeaves& leaves);  // also releases the locks

// Folds all rows of missions and agents in the leaves that the MVCC snapshot sees, in bounded
// memory, and stores new results; with Basis::Nothing, for which the leaves must be all of the log,
// it also deletes records that have no rows any more. Reports progress to the client. Throws
// PgError.
FoldCounts fold_history(Oid log, OpenLeaves& leaves, Snapshot snapshot, Basis basis);

// Updates the records with rows that the MVCC snapshot did not see, which arrived between the fold
// and the trigger. The caller holds a lock that blocks writers.
void catch_up(Relation leaf, Snapshot snapshot, FoldCounts& counts);

// Adds what was folded to the metrics, if the transaction commits.
void count_fold(const FoldCounts& counts);

// A full pass's work on the log as a whole. Folds it if another table's history was folded (after a
// restore of a dump the trigger exists, but not the snapshots), or if changes could not be marked;
// of a partitioned log it folds the leaves that are new. What is large is only begun
// (fold_batches.hpp). If the log was rewritten, marks the records with exact ties. Throws PgError.
void keep_up_with_log();

// On disk the log is "clean" while no worker runs and none has left changes without a mark, since
// counts in memory are lost with the server. A worker that finds it not clean has to fold it; it
// calls this when it starts, in a transaction, and the other function when it ends. Throws PgError.
bool begin_to_keep_up();  // whether the log was clean
void end_keeping_up();

// mana_ai.refresh_snapshots(), in the current transaction. Throws PgError.
FoldCounts refresh_snapshots(Basis basis);

// Records that the history of the relation is folded, and of which leaves.
void remember_folded(Oid log, const std::vector<LeafFacts>& leaves);

}  // namespace mana_ai
