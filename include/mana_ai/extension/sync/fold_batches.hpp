// The fold of a large log in batches, each in a short transaction of the worker (table
// fold_progress; docs/architecture.md, "Folds in batches"). All of them throw PgError.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "mana_ai/pg/postgres.hpp"

namespace mana_ai {

// Whether these leaves of the log are too large to be folded at once, and can be folded in batches:
// there is a worker, and all leaves of the log have an index that finds a record.
bool should_fold_in_batches(Oid log, const std::vector<Oid>& leaves);

// Begins a fold of the whole log; it replaces one that is under way. New: nothing of this table is
// folded yet, and the trigger is on it.
enum class LogIs : uint8_t { New, Known };
void begin_batches(Oid log, LogIs which);

// Begins, or extends, a fold by leaves that are new.
void add_leaves_to_batches(Oid log, const std::vector<Oid>& leaves);

// Of the fold that is under way.
std::vector<Oid> leaves_in_batches();

// Whether one is under way, and no worker to continue it.
bool are_batches_abandoned();

// Whether snapshots may lack rows that are older than the trigger, so that nothing may be claimed,
// and no record be written from its snapshot.
bool may_snapshots_lack_rows();

// Everything was folded at once, or the log is detached.
void forget_batches();

enum class BatchFold : uint8_t {
    None,  // no fold is under way, or this was the end of it
    More,
    Busy,  // somebody else folds, or has locked a table: try again later
};
enum class BatchKind : uint8_t {
    Usual,
    Small,    // as few rows as possible
    OnlyMark  // the same, whose records are only marked: each is then repaired by itself
};
// Folds the next batch in the current transaction.
BatchFold fold_next_batch(BatchKind kind);

// For status(): what keeps the next batch from being folded, until it is.
void note_batch_problem(const std::string& sqlstate);

}  // namespace mana_ai
