// What keeps plans from being written to the attached table (sync_table.hpp).

#include "mana_ai/extension/sync/folded_leaves.hpp"
#include "mana_ai/extension/sync/log_leaves.hpp"
#include "mana_ai/extension/sync/sync_table.hpp"
#include "mana_ai/pg/guard.hpp"
#include "mana_ai/pg/time.hpp"

extern "C" {
#include "access/relation.h"
#include "catalog/pg_class.h"
#include "commands/trigger.h"
#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/rel.h"
#include "utils/timestamp.h"
}

namespace mana_ai {

namespace {

const char* trigger_problem(const Trigger& trigger, const char* table) {
    switch (trigger.tgenabled) {
        case TRIGGER_DISABLED:
            return psprintf("trigger %s of table %s is disabled", trigger.tgname, table);
        case TRIGGER_FIRES_ON_REPLICA:
            return psprintf("trigger %s of table %s fires for replicated rows only", trigger.tgname,
                            table);
        default:
            return nullptr;
    }
}

// A plan that begins now must still find a partition when it is written.
constexpr core::Instant kRoomForPlan = core::kMicrosPerHour;

bool log_is_partitioned = false;

// `user_id` may be null.
const char* lacks_partition(Oid log, const char* user_id) {
    const core::Instant now = pg::now();
    for (const core::Instant ahead : {core::Instant{0}, kRoomForPlan}) {
        const core::Instant at = now + ahead;
        RowFacts row = row_of_mission();
        row.created_at = &at;
        if (user_id != nullptr)
            row.user_id = CStringGetTextDatum(user_id);
        const char* problem = row_problem(log, row);
        if (problem != nullptr)
            return psprintf("%s (%s)", problem, ahead == 0 ? "now" : "in an hour");
    }
    return nullptr;
}

}  // namespace

const char* attached_problem() {
    const Oid attached = attached_relation();
    Relation relation =
        OidIsValid(attached) ? try_relation_open(attached, AccessShareLock) : nullptr;
    if (relation == nullptr)
        return "mana_ai is not attached to a table";
    const char* problem = log_problem(relation);
    if (problem != nullptr)
        problem =
            psprintf("table %s cannot be used: %s", RelationGetRelationName(relation), problem);
    const Oid function = trigger_function();
    const TriggerDesc* triggers = relation->trigdesc;
    for (int i = 0; problem == nullptr && triggers != nullptr && i < triggers->numtriggers; i++)
        if (triggers->triggers[i].tgfoid == function)
            problem = trigger_problem(triggers->triggers[i], RelationGetRelationName(relation));
    if (problem == nullptr)
        problem = leaf_triggers_problem(attached);
    if (problem == nullptr)
        problem = lacks_partition(attached, nullptr);
    log_is_partitioned = relation->rd_rel->relkind == RELKIND_PARTITIONED_TABLE;
    relation_close(relation, AccessShareLock);
    return problem;
}

bool may_lack_place_for_user() {
    return log_is_partitioned;
}

const char* place_problem(const char* user_id) {
    const Oid attached = attached_relation();
    return OidIsValid(attached) ? lacks_partition(attached, user_id) : nullptr;
}

}  // namespace mana_ai

extern "C" {

// attached_problem(): what is wrong with the attached table itself.
PG_FUNCTION_INFO_V1(mana_ai_attached_problem);
PGDLLEXPORT Datum mana_ai_attached_problem(PG_FUNCTION_ARGS) {
    using namespace mana_ai;
    (void)fcinfo;
    const char* problem =
        pg::entry_point([] { return pg::guarded([] { return attached_problem(); }); });
    if (problem == nullptr)
        PG_RETURN_NULL();
    PG_RETURN_TEXT_P(cstring_to_text(problem));
}

}  // extern "C"
