#include "mana_ai/extension/input/decrypt_audit.hpp"

#include "mana_ai/pg/guard.hpp"
#include "mana_ai/pg/metrics.hpp"
#include "mana_ai/pg/settings.hpp"
#include "mana_ai/pg/spi.hpp"
#include "mana_ai/pg/time.hpp"

extern "C" {
#include "access/htup_details.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "utils/rel.h"
}

namespace mana_ai {

namespace {

// Throws unless the row to be deleted is older than the retention.
void check_expired(const TriggerData& trigger) {
    const core::Instant retention = pg::settings::audit_retention_us();
    if (retention == 0)
        throw pg::make_error(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                             "rows of mana_ai.decrypt_audit cannot be deleted",
                             "They are kept for ever.",
                             "mana_ai.audit_retention says how long they are kept; then the worker "
                             "deletes them.");
    const bool expired = pg::guarded([&trigger, retention] {
        TupleDesc descriptor = RelationGetDescr(trigger.tg_relation);
        bool is_null = false;
        const Datum ts =
            heap_getattr(trigger.tg_trigtuple, SPI_fnumber(descriptor, "ts"), descriptor, &is_null);
        return !is_null && pg::instant_from_timestamptz(DatumGetTimestampTz(ts)) <
                               pg::instant_from_timestamptz(GetCurrentTimestamp()) - retention;
    });
    if (!expired)
        throw pg::make_error(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                             "rows of mana_ai.decrypt_audit cannot be deleted yet",
                             "The row is younger than mana_ai.audit_retention.");
}

}  // namespace

const char* name(DecryptStatus status) noexcept {
    switch (status) {
        case DecryptStatus::Ok:
            return "ok";
        case DecryptStatus::ScopeViolation:
            return "scope-violation";
        case DecryptStatus::Failed:
            break;
    }
    return "failed";
}

void record_decrypts(const ClaimedMission& claimed, const std::vector<DecryptRecord>& records) {
    if (records.empty())
        return;
    std::vector<std::string> tables;
    std::vector<std::string> ids;
    std::vector<std::string> statuses;
    std::vector<std::string> reasons;
    for (const DecryptRecord& record : records) {
        tables.push_back(record.table_name);
        ids.push_back(record.record_id);
        statuses.emplace_back(name(record.status));
        reasons.push_back(record.reason);
    }
    static pg::Statement insert(R"sql(
INSERT INTO mana_ai.decrypt_audit
       (user_id, mission_id, iteration_id, table_name, record_id, status, reason)
SELECT $1, $2, $3, r.table_name, r.record_id, r.status, nullif(r.reason, '')
  FROM unnest($4, $5, $6, $7) AS r(table_name, record_id, status, reason))sql");
    insert.execute({std::string_view(claimed.user_id), std::string_view(claimed.mission_id),
                    std::string_view(claimed.iteration_id), &tables, &ids, &statuses, &reasons});
    for (const DecryptRecord& record : records) {
        if (record.status == DecryptStatus::Ok)
            pg::metrics::count_at_commit(core::Metric::Decrypts, {record.table_name});
        else if (record.status == DecryptStatus::ScopeViolation)
            pg::metrics::count_at_commit(core::Metric::GrantScopeViolations, {record.table_name});
    }
}

void record_inputs(const ClaimedMission& claimed, const core::Json& inputs) {
    // "running" is a parameter for the same reason as in finish_run().
    static pg::Statement set_inputs(R"sql(
UPDATE mana_ai.runs SET inputs = $3::jsonb
 WHERE user_id = $1 AND run_id = $2::uuid AND outcome = $4)sql");
    const std::string text = core::dump_json(inputs);
    set_inputs.execute({std::string_view(claimed.user_id), std::string_view(claimed.run_id),
                        std::string_view(text), std::string_view("running")});
}

void record_further_input(const ClaimedMission& claimed, const core::Json& input) {
    static pg::Statement add_input(R"sql(
UPDATE mana_ai.runs SET inputs = coalesce(inputs, '[]') || jsonb_build_array($3::jsonb)
 WHERE user_id = $1 AND run_id = $2::uuid AND outcome = $4)sql");
    const std::string text = core::dump_json(input);
    add_input.execute({std::string_view(claimed.user_id), std::string_view(claimed.run_id),
                       std::string_view(text), std::string_view("running")});
}

bool delete_expired_audit(core::Instant now, int64_t limit) {
    const core::Instant retention = pg::settings::audit_retention_us();
    if (retention == 0)
        return false;
    static pg::Statement delete_rows(R"sql(
DELETE FROM mana_ai.decrypt_audit WHERE ctid = ANY (ARRAY(
  SELECT ctid FROM mana_ai.decrypt_audit WHERE ts < $1 LIMIT $2)))sql");
    return delete_rows.execute({pg::Timestamp{now - retention}, limit}).processed ==
           static_cast<uint64_t>(limit);
}

}  // namespace mana_ai

extern "C" {

PG_FUNCTION_INFO_V1(mana_ai_protect_decrypt_audit);
PGDLLEXPORT Datum mana_ai_protect_decrypt_audit(PG_FUNCTION_ARGS) {
    using namespace mana_ai;
    HeapTuple tuple = pg::entry_point([fcinfo] {
        if (!CALLED_AS_TRIGGER(fcinfo))
            throw pg::make_error(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED,
                                 "mana_ai.protect_decrypt_audit() is not called as a trigger");
        const auto* trigger = reinterpret_cast<const TriggerData*>(fcinfo->context);
        if (TRIGGER_FIRED_BY_DELETE(trigger->tg_event)) {
            check_expired(*trigger);
            return trigger->tg_trigtuple;
        }
        throw pg::make_error(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                             TRIGGER_FIRED_BY_TRUNCATE(trigger->tg_event)
                                 ? "mana_ai.decrypt_audit cannot be truncated"
                                 : "rows of mana_ai.decrypt_audit cannot be changed",
                             "The table is append-only.");
    });
    return PointerGetDatum(tuple);
}

}  // extern "C"
