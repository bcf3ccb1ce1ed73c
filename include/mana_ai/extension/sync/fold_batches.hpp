// The fold of a large log in batches, each in a short transaction of the worker (table
// fold_progress; docs/architecture.md, "Folds in batches"). All of them throw PgError.
#pragma once

#include <cstdint>
#include <vector>

#include "mana_ai/pg/postgres.hpp"

namespace mana_ai {

// Whether these leaves of a log are too large to be folded at once, and can be folded in batches:
// there is a worker, and each leaf has an index that finds a record.
bool should_fold_in_batches(const std::vector<Oid>& leaves);

// Begins a fold of the whole log; it replaces one that is under way. New: nothing of this table is
// folded yet, and the trigger is on it.
enum class LogIs : uint8_t { New, Known };
void begin_batches(Oid log, LogIs which);

// Begins, or extends, a fold by leaves that are new.
void add_leaves_to_batches(Oid log, const std::vector<Oid>& leaves);

// Of the fold that is under way.
std::vector<Oid> leaves_in_batches();

// Everything was folded at once, or the log is detached.
void forget_batches();

enum class BatchFold : uint8_t {
    None,  // no fold is under way, or this was the end of it
    More,
    Busy,  // somebody else folds, or has locked a table: try again later
};
// Folds the next batch in the current transaction. `only_mark`: marks its records instead, each of
// which is then repaired by itself.
BatchFold fold_next_batch(bool only_mark);

// What is left to be read, in bytes; 0 = no fold is under way.
int64_t unfolded_bytes();

}  // namespace mana_ai
