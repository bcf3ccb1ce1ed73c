#include "mana_ai/extension/lease/usage_sums.hpp"

#include <string>

#include "mana_ai/extension/lease/ledger.hpp"
#include "mana_ai/pg/function_call.hpp"
#include "mana_ai/pg/guard.hpp"
#include "mana_ai/pg/spi.hpp"
#include "mana_ai/pg/time.hpp"
#include "mana_ai/pg/transaction.hpp"

extern "C" {
#include "catalog/pg_type_d.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "utils/builtins.h"
#include "utils/numeric.h"
#include "utils/timestamp.h"
}

namespace mana_ai {

namespace {

constexpr int64_t kMaxReplies = 20'000;
// Later charges are not added up yet: advance_usage_sums() stays two minutes behind.
constexpr int64_t kNewFor = core::kMicrosPerMinute;
// Only the last day is used; somewhat longer, as in mana_ai.follow_usage().
constexpr int64_t kOldAfter = 26 * core::kMicrosPerHour;

struct NewUsage {
    bool is_to_be_added = false;
    TimestampTz ts = 0;
    int64_t tokens = 0;
    const char* currency = "";
    const char* cost = nullptr;
};

Datum column_of(TupleTableSlot* slot, const char* name, bool& is_null) {
    const int number = SPI_fnumber(slot->tts_tupleDescriptor, name);
    if (number <= 0)
        elog(ERROR, "mana_ai.token_usage has no column \"%s\"", name);
    return slot_getattr(slot, static_cast<AttrNumber>(number), &is_null);
}

// Called inside guarded().
NewUsage read_usage(const TriggerData* trigger) {
    TupleTableSlot* slot = trigger->tg_trigslot;
    NewUsage usage;
    bool is_null = false;
    usage.ts = DatumGetTimestampTz(column_of(slot, "ts", is_null));
    bool has_no_run = false;
    (void)column_of(slot, "run_id", has_no_run);
    const TimestampTz now = GetCurrentTimestamp();
    usage.is_to_be_added = !TIMESTAMP_NOT_FINITE(usage.ts) && usage.ts > now - kOldAfter &&
                           (has_no_run || usage.ts < now - kNewFor);
    if (!usage.is_to_be_added)
        return usage;
    usage.tokens = DatumGetInt32(column_of(slot, "tokens_used", is_null));
    const Datum currency = column_of(slot, "currency", is_null);
    if (!is_null)
        usage.currency = TextDatumGetCString(currency);
    const Datum cost = column_of(slot, "cost", is_null);
    if (!is_null)
        usage.cost = DatumGetCString(DirectFunctionCall1(numeric_out, cost));
    return usage;
}

}  // namespace

std::optional<bool> advance_usage_sums() {
    static pg::Statement advance("SELECT mana_ai.advance_usage_sums($1::int)");
    const auto rows = advance.execute({kMaxReplies}).rows;
    const pg::Row& row = rows.front();
    if (row.is_null(0))
        return std::nullopt;
    return row.number(0) != 0;
}

}  // namespace mana_ai

extern "C" {

PG_FUNCTION_INFO_V1(mana_ai_lock_budgets);
PGDLLEXPORT Datum mana_ai_lock_budgets(PG_FUNCTION_ARGS) {
    (void)fcinfo;
    return mana_ai::pg::entry_point([] {
        mana_ai::lock_budgets();
        return PointerGetDatum(nullptr);
    });
}

PG_FUNCTION_INFO_V1(mana_ai_try_lock_budgets);
PGDLLEXPORT Datum mana_ai_try_lock_budgets(PG_FUNCTION_ARGS) {
    (void)fcinfo;
    return mana_ai::pg::entry_point([] { return BoolGetDatum(mana_ai::try_lock_budgets()); });
}

PG_FUNCTION_INFO_V1(mana_ai_follow_new_usage);
PGDLLEXPORT Datum mana_ai_follow_new_usage(PG_FUNCTION_ARGS) {
    using namespace mana_ai;
    return pg::entry_point([fcinfo] {
        const auto* trigger = CALLED_AS_TRIGGER(fcinfo)
                                  ? reinterpret_cast<const TriggerData*>(fcinfo->context)
                                  : nullptr;
        if (trigger == nullptr || !TRIGGER_FIRED_AFTER(trigger->tg_event) ||
            !TRIGGER_FIRED_BY_INSERT(trigger->tg_event) ||
            !TRIGGER_FIRED_FOR_ROW(trigger->tg_event))
            throw pg::make_error(
                ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED,
                "mana_ai.follow_new_usage() must be called as a trigger, after each inserted row");
        const NewUsage usage = pg::guarded([trigger] { return read_usage(trigger); });
        if (!usage.is_to_be_added)
            return PointerGetDatum(nullptr);
        const std::optional<std::string> cost =
            usage.cost != nullptr ? std::optional<std::string>(usage.cost) : std::nullopt;
        // A role that may only insert into the ledger must not be able to change the sums.
        const pg::RoleScope as_owner(trigger->tg_relation->rd_rel->relowner);
        static pg::Statement add("SELECT mana_ai.add_to_usage_sums($1, $2, $3, $4::text::numeric)");
        add.execute({pg::Timestamp{pg::instant_from_timestamptz(usage.ts)},
                     std::string_view(usage.currency), usage.tokens, pg::text_or_null(cost)});
        return PointerGetDatum(nullptr);
    });
}
}
