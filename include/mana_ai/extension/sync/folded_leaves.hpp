// Which leaves of a partitioned log are folded (table folded_leaves). A partition that is attached
// with rows in it fires no trigger for them: the next full pass folds it. What identifies an
// attachment is the trigger that PostgreSQL clones with it.
#pragma once

#include <optional>
#include <vector>

#include "mana_ai/pg/postgres.hpp"

namespace mana_ai {

struct LeafFacts {
    Oid leaf;
    Oid trigger;  // our trigger on it
    Oid file;     // pg_relation_filenode
};

// The leaves of the log as they are now; none for a log that is not partitioned. Throws PgError.
std::vector<LeafFacts> leaves_now(Oid log);
// The same of any log: one that is not partitioned is its own leaf.
std::vector<LeafFacts> all_leaves_now(Oid log);
std::vector<Oid> oids_of_leaves(Oid log);
std::optional<LeafFacts> leaf_now(Oid log, Oid leaf);  // nullopt: it is none
bool is_leaf_as(Oid log, const LeafFacts& facts);      // may ereport(ERROR)

// Why changes of some leaves do not reach us, as a sentence in the current memory context; nullptr:
// they do. May ereport(ERROR).
const char* leaf_triggers_problem(Oid log);

// What has changed since the leaves were last remembered.
struct LeafChanges {
    std::vector<Oid> to_fold;
    bool was_rewritten = false;  // the file of one is another one
    bool any = false;
};
LeafChanges compare_folded_leaves(const std::vector<LeafFacts>& now);

// Replaces what is remembered. Throws PgError.
void remember_folded_leaves(const std::vector<LeafFacts>& folded);

}  // namespace mana_ai
