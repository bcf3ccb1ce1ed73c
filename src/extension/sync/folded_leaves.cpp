#include "mana_ai/extension/sync/folded_leaves.hpp"

#include <algorithm>

#include "mana_ai/extension/sync/log_leaves.hpp"
#include "mana_ai/extension/sync/sync_table.hpp"
#include "mana_ai/pg/guard.hpp"
#include "mana_ai/pg/spi.hpp"

extern "C" {
#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/indexing.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_trigger.h"
#include "commands/trigger.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"
}

namespace mana_ai {

namespace {

struct LeafTrigger {
    Oid oid;
    char enabled;
    const char* name;
};

LeafTrigger trigger_of(Oid leaf) {
    const Oid function = trigger_function();
    LeafTrigger found{};
    Relation catalog = table_open(TriggerRelationId, AccessShareLock);
    ScanKeyData key;
    ScanKeyInit(&key, Anum_pg_trigger_tgrelid, BTEqualStrategyNumber, F_OIDEQ,
                ObjectIdGetDatum(leaf));
    SysScanDesc scan = systable_beginscan(catalog, TriggerRelidNameIndexId, true, nullptr, 1, &key);
    for (HeapTuple tuple = systable_getnext(scan); HeapTupleIsValid(tuple);
         tuple = systable_getnext(scan)) {
        const auto* form = reinterpret_cast<Form_pg_trigger>(GETSTRUCT(tuple));
        if (form->tgfoid == function)
            found = {form->oid, form->tgenabled, pstrdup(NameStr(form->tgname))};
    }
    systable_endscan(scan);
    table_close(catalog, AccessShareLock);
    return found;
}

Oid file_of(Oid leaf) {
    HeapTuple tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(leaf));
    if (!HeapTupleIsValid(tuple))
        return InvalidOid;
    const Oid file = reinterpret_cast<Form_pg_class>(GETSTRUCT(tuple))->relfilenode;
    ReleaseSysCache(tuple);
    return file;
}

bool is_partitioned(Oid log) {
    return get_rel_relkind(log) == RELKIND_PARTITIONED_TABLE;
}

const char* problem_of(Oid leaf) {
    const LeafTrigger trigger = trigger_of(leaf);
    const char* name = get_rel_name(leaf);
    if (name == nullptr)
        return nullptr;
    if (!OidIsValid(trigger.oid))
        return psprintf("partition %s has no trigger of mana_ai", name);
    if (trigger.enabled == TRIGGER_DISABLED)
        return psprintf("trigger %s of partition %s is disabled", trigger.name, name);
    if (trigger.enabled == TRIGGER_FIRES_ON_REPLICA)
        return psprintf("trigger %s of partition %s fires for replicated rows only", trigger.name,
                        name);
    return nullptr;
}

bool has_table() {
    return pg::guarded([] {
        return OidIsValid(get_relname_relid("folded_leaves", get_namespace_oid("mana_ai", false)));
    });
}

}  // namespace

std::vector<LeafFacts> all_leaves_now(Oid log) {
    struct Found {
        LeafFacts* facts;
        int count;
    };
    const Found found = pg::guarded([log] {
        List* leaves = leaves_of(log);
        Found all{static_cast<LeafFacts*>(palloc(sizeof(LeafFacts) * (list_length(leaves) + 1))),
                  0};
        ListCell* cell;
        foreach (cell, leaves) {
            const Oid leaf = lfirst_oid(cell);
            all.facts[all.count++] = {leaf, trigger_of(leaf).oid, file_of(leaf)};
        }
        return all;
    });
    return {found.facts, found.facts + found.count};
}

std::vector<LeafFacts> leaves_now(Oid log) {
    if (!pg::guarded([log] { return is_partitioned(log); }))
        return {};
    return all_leaves_now(log);
}

std::optional<LeafFacts> leaf_now(Oid log, Oid leaf) {
    const LeafFacts facts = pg::guarded([&] {
        if (!list_member_oid(leaves_of(log), leaf))
            return LeafFacts{};
        return LeafFacts{leaf, trigger_of(leaf).oid, file_of(leaf)};
    });
    return OidIsValid(facts.leaf) ? std::optional(facts) : std::nullopt;
}

bool is_leaf_as(Oid log, const LeafFacts& facts) {
    return list_member_oid(leaves_of(log), facts.leaf) &&
           trigger_of(facts.leaf).oid == facts.trigger && file_of(facts.leaf) == facts.file;
}

std::vector<Oid> oids_of_leaves(Oid log) {
    List* leaves = pg::guarded([log] { return leaves_of(log); });
    std::vector<Oid> oids;
    for (int i = 0; i < list_length(leaves); i++)
        oids.push_back(list_nth_oid(leaves, i));
    return oids;
}

const char* leaf_triggers_problem(Oid log) {
    static Oid asked = InvalidOid;
    static uint64_t version = 0;
    static char known[256];
    if (!is_partitioned(log))
        return nullptr;
    if (asked != log || version != leaves_version(log)) {
        asked = InvalidOid;
        const uint64_t now = leaves_version(log);
        const char* problem = nullptr;
        ListCell* cell;
        foreach (cell, leaves_of(log))
            if (problem == nullptr)
                problem = problem_of(lfirst_oid(cell));
        strlcpy(known, problem == nullptr ? "" : problem, sizeof known);
        version = now;
        asked = log;
    }
    return known[0] == '\0' ? nullptr : pstrdup(known);
}

LeafChanges compare_folded_leaves(const std::vector<LeafFacts>& now) {
    LeafChanges changes;
    if (!has_table())
        return changes;
    static pg::Statement select_folded(
        "SELECT leaf::int8, trigger::int8, generation::int8 FROM mana_ai.folded_leaves");
    std::vector<LeafFacts> folded;
    for (const pg::Row& row : select_folded.execute().rows)
        folded.push_back({static_cast<Oid>(row.number(0)), static_cast<Oid>(row.number(1)),
                          static_cast<Oid>(row.number(2))});
    changes.any = folded.size() != now.size();
    for (const LeafFacts& leaf : now) {
        const auto known = std::find_if(folded.begin(), folded.end(), [&](const auto& other) {
            return other.leaf == leaf.leaf && other.trigger == leaf.trigger;
        });
        if (known == folded.end())
            changes.to_fold.push_back(leaf.leaf);
        else if (known->file != leaf.file)
            changes.was_rewritten = true;
    }
    changes.any |= changes.was_rewritten || !changes.to_fold.empty();
    return changes;
}

void remember_folded_leaves(const std::vector<LeafFacts>& folded) {
    if (!has_table())
        return;
    static pg::Statement forget("DELETE FROM mana_ai.folded_leaves");
    static pg::Statement insert(R"sql(
INSERT INTO mana_ai.folded_leaves (leaf, trigger, generation) VALUES ($1::oid, $2::oid, $3::oid))sql");
    forget.execute();
    for (const LeafFacts& leaf : folded)
        insert.execute({int64_t{leaf.leaf}, int64_t{leaf.trigger}, int64_t{leaf.file}});
}

}  // namespace mana_ai
