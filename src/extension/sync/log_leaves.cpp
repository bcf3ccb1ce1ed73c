#include "mana_ai/extension/sync/log_leaves.hpp"

#include <algorithm>
#include <cstring>

#include "mana_ai/pg/relation_changes.hpp"
#include "mana_ai/pg/time.hpp"

extern "C" {
#include "access/htup_details.h"
#include "access/relation.h"
#include "access/table.h"
#include "catalog/pg_am_d.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_partitioned_table.h"
#include "common/hashfn.h"
#include "storage/lmgr.h"
#include "utils/hsearch.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/syscache.h"
}

namespace mana_ai {

namespace {

// ---------------------------------------------------------------- the leaves below a relation

// A position has 48 bits, and clocks have room for 61 (core/record/clock_table.hpp).
constexpr int kPlaceShift = 48;
constexpr int kMaxLeaves = 1 << 13;

struct Tree {
    Oid top;  // the key
    bool is_valid;
    uint64_t version;
    int count;
    int member_count;  // the leaves, all others, and the partitioned tables
    Oid* leaves;
    Oid* members;
    uint32_t generation;
    int foreign_count;
    Oid not_heap;         // a leaf that is no ordinary table, or InvalidOid
    Oid with_expression;  // a table that is partitioned by an expression, or InvalidOid
    Oid with_operators;   // one with operator classes that are not PostgreSQL's own, or InvalidOid
    Oid foreign_part;     // a foreign partition that can have a part of a record, or InvalidOid
};
HTAB* trees = nullptr;

void forget_trees_of(Oid relation) {
    HASH_SEQ_STATUS all;
    hash_seq_init(&all, trees);
    while (auto* tree = static_cast<Tree*>(hash_seq_search(&all)))
        if (!OidIsValid(relation) ||
            std::binary_search(tree->members, tree->members + tree->member_count, relation))
            tree->is_valid = false;
}

Tree& tree_at(Oid top) {
    if (trees == nullptr) {
        HASHCTL control{};
        control.keysize = sizeof(Oid);
        control.entrysize = sizeof(Tree);
        trees = hash_create("mana_ai leaves of the log", 16, &control, HASH_ELEM | HASH_BLOBS);
        pg::on_relation_change(forget_trees_of);
    }
    bool found = false;
    auto* tree = static_cast<Tree*>(hash_search(trees, &top, HASH_ENTER, &found));
    if (!found) {
        *tree = Tree{};
        tree->top = top;
    }
    return *tree;
}

// PostgreSQL evaluates constant parts of such an expression, the table owner's code, in whatever
// role somebody uses the table.
bool is_by_expression(Oid partitioned) {
    HeapTuple tuple = SearchSysCache1(PARTRELID, ObjectIdGetDatum(partitioned));
    if (!HeapTupleIsValid(tuple))
        return false;
    const bool is = !heap_attisnull(tuple, Anum_pg_partitioned_table_partexprs, nullptr);
    ReleaseSysCache(tuple);
    return is;
}

int compare_oids(const void* a, const void* b) {
    const Oid left = *static_cast<const Oid*>(a);
    const Oid right = *static_cast<const Oid*>(b);
    return left < right ? -1 : left > right ? 1 : 0;
}

// Inheritance below an ordinary table is something else: children are separate tables.
List* members_below(Oid top) {
    if (get_rel_relkind(top) != RELKIND_PARTITIONED_TABLE)
        return list_make1_oid(top);
    return find_all_inheritors(top, NoLock, nullptr);
}

void read_tree(Tree& tree) {
    const uint64_t before = pg::relation_changes();
    List* members = members_below(tree.top);
    auto* all = static_cast<Oid*>(
        MemoryContextAlloc(TopMemoryContext, 2 * sizeof(Oid) * (list_length(members) + 1)));
    Tree fresh{};
    fresh.top = tree.top;
    fresh.version = tree.version + 1;
    fresh.members = all;
    fresh.leaves = all + list_length(members);
    ListCell* cell;
    foreach (cell, members)
        fresh.members[fresh.member_count++] = lfirst_oid(cell);
    qsort(fresh.members, fresh.member_count, sizeof(Oid), compare_oids);
    for (int i = 0; i < fresh.member_count; i++) {
        HeapTuple tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(fresh.members[i]));
        if (!HeapTupleIsValid(tuple))
            continue;
        const auto* form = reinterpret_cast<Form_pg_class>(GETSTRUCT(tuple));
        if (form->relkind == RELKIND_FOREIGN_TABLE) {
            fresh.foreign_count++;
            if (may_share_records(form->oid, fresh.top))
                fresh.foreign_part = form->oid;
        } else if (form->relkind == RELKIND_RELATION && form->relam == HEAP_TABLE_AM_OID) {
            fresh.leaves[fresh.count++] = form->oid;
            fresh.generation =
                form->oid == fresh.top
                    ? form->relfilenode
                    : hash_combine(hash_combine(fresh.generation, form->oid), form->relfilenode);
        } else if (form->relkind != RELKIND_PARTITIONED_TABLE) {
            fresh.not_heap = form->oid;
        } else if (is_by_expression(form->oid)) {
            fresh.with_expression = form->oid;
        } else if (has_foreign_operators(form->oid)) {
            fresh.with_operators = form->oid;
        }
        ReleaseSysCache(tuple);
    }
    list_free(members);
    Oid* old = tree.members;
    tree = fresh;
    tree.is_valid = before == pg::relation_changes();
    if (old != nullptr)
        pfree(old);
}

// Of this call, if something has changed while it was read.
Tree& current_tree(Oid top) {
    Tree& tree = tree_at(top);
    if (!tree.is_valid)
        read_tree(tree);
    return tree;
}

}  // namespace

List* leaves_of(Oid tree) {
    const Tree& found = current_tree(tree);
    List* leaves = NIL;
    for (int i = 0; i < found.count; i++)
        leaves = lappend_oid(leaves, found.leaves[i]);
    return leaves;
}

const char* leaves_problem(Oid top) {
    const Tree& tree = current_tree(top);
    if (OidIsValid(tree.not_heap))
        return psprintf("partition %s is not an ordinary table", get_rel_name(tree.not_heap));
    if (OidIsValid(tree.with_expression))
        return psprintf("table %s is partitioned by an expression",
                        get_rel_name(tree.with_expression));
    if (OidIsValid(tree.with_operators))
        return psprintf("table %s is partitioned with an operator class that is not PostgreSQL's",
                        get_rel_name(tree.with_operators));
    if (OidIsValid(tree.foreign_part))
        return psprintf("foreign partition %s can hold a part of a record",
                        get_rel_name(tree.foreign_part));
    if (tree.count == 0 && tree.foreign_count > 0)
        return "all partitions are on other servers";
    if (tree.count > kMaxLeaves)
        return psprintf("there are more than %d partitions", kMaxLeaves);
    return nullptr;
}

uint64_t leaves_version(Oid top) {
    return current_tree(top).version;
}

uint32_t generation_of(Oid tree) {
    return current_tree(tree).generation;
}

uint64_t place_of(Oid tree, Oid leaf) {
    if (tree == leaf)
        return 0;
    const Tree& found = current_tree(tree);
    const Oid* at = std::lower_bound(found.leaves, found.leaves + found.count, leaf);
    // A leaf that is being detached counts as the last one.
    const bool is_found = at != found.leaves + found.count && *at == leaf;
    const auto ordinal = is_found ? static_cast<uint64_t>(at - found.leaves) : kMaxLeaves - 1;
    return std::min<uint64_t>(ordinal, kMaxLeaves - 1) << kPlaceShift;
}

LeafOpened open_leaf(Oid leaf, bool wait, Relation* relation) {
    if (wait)
        LockRelationOid(leaf, AccessShareLock);
    else if (!ConditionalLockRelationOid(leaf, AccessShareLock))
        return LeafOpened::Busy;
    *relation = try_relation_open(leaf, NoLock);
    if (*relation == nullptr) {
        UnlockRelationOid(leaf, AccessShareLock);
        return LeafOpened::Gone;
    }
    List* locked = NIL;
    if (!wait && !try_lock_indexes(*relation, &locked)) {
        close_leaf(*relation);
        return LeafOpened::Busy;
    }
    const bool can_be_read = leaf_problem(*relation) == nullptr;
    unlock_indexes(locked);
    if (can_be_read)
        return LeafOpened::Opened;
    close_leaf(*relation);
    return LeafOpened::Gone;
}

void close_leaf(Relation leaf) {
    relation_close(leaf, AccessShareLock);
}

// The shape that is read first opens all of them.
bool try_lock_indexes(Relation leaf, List** locked) {
    const SyncShape* shape = known_shape(leaf);
    *locked = NIL;
    List* indexes = NIL;
    if (shape == nullptr)
        indexes = RelationGetIndexList(leaf);
    else if (OidIsValid(shape->index))
        indexes = list_make1_oid(shape->index);
    ListCell* cell;
    foreach (cell, indexes) {
        if (!ConditionalLockRelationOid(lfirst_oid(cell), AccessShareLock)) {
            unlock_indexes(*locked);
            return false;
        }
        *locked = lappend_oid(*locked, lfirst_oid(cell));
    }
    return true;
}

void unlock_indexes(List* locked) {
    ListCell* cell;
    foreach (cell, locked)
        UnlockRelationOid(lfirst_oid(cell), AccessShareLock);
}

void look_for_waiters(LeavesInUse& in_use) {
    constexpr core::Instant kPause = 100'000;
    const core::Instant now = pg::monotonic_now();
    if (now < in_use.next_look)
        return;
    in_use.next_look = now + kPause;
    const Oid leaf = in_use.waiters.find(in_use.leaves);
    if (!OidIsValid(leaf))
        return;
    const char* name = get_rel_name(leaf);
    ereport(ERROR, (errcode(ERRCODE_LOCK_NOT_AVAILABLE),
                    errmsg("reading the log gave way to a session that locks table \"%s\"",
                           name == nullptr ? "" : name),
                    errhint("Try again when that session has finished.")));
}

}  // namespace mana_ai
