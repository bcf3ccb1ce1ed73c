#include "mana_ai/extension/run/iteration_state.hpp"

#include <string_view>

#include "mana_ai/extension/run/planning_record.hpp"
#include "mana_ai/pg/guard.hpp"
#include "mana_ai/pg/text.hpp"
#include "mana_ai/pg/time.hpp"

extern "C" {
#include "catalog/pg_type_d.h"
#include "utils/array.h"
}

namespace mana_ai {

namespace {

using pg::find_field;
using pg::JsonbFields;
using pg::JsonbValueRef;
using pg::JsonbValues;

// No known client delays a plan for as long: an older one does not wait for anybody.
constexpr core::Instant kLongestReview = 7 * core::kMicrosPerDay;

bool is_text(const JsonbFields& members, const char* name, std::string_view text) {
    const JsonbValueRef* value = find_field(members, name);
    return value != nullptr && pg::string_of(*value) == text;
}

std::optional<core::Instant> instant_of(const JsonbFields& members, const char* name) {
    const JsonbValueRef* value = find_field(members, name);
    const auto text = value != nullptr ? pg::string_of(*value) : std::nullopt;
    return text ? core::parse_instant(*text) : std::nullopt;
}

bool says_something(const JsonbFields& members, const char* name) {
    const JsonbValueRef* value = find_field(members, name);
    return value != nullptr && pg::is_truthy(*value);
}

// Whether the plan has steps and none of them has been dealt with. Of a plan that is missing nobody
// knows.
bool is_untouched(const JsonbFields& members) {
    const JsonbValueRef* plan = find_field(members, "plan");
    if (plan == nullptr)
        return true;
    const JsonbValues steps = pg::read_array(*plan);
    bool untouched = steps.count > 0;
    for (uint32_t i = 0; i < steps.count && untouched; i++) {
        const JsonbFields step = pg::read_object(steps.values[i]);
        untouched = !pg::is_object(steps.values[i]) || is_text(step, "status", "planned") ||
                    is_text(step, "status", "staged");
        if (step.fields != nullptr)
            pfree(step.fields);
    }
    if (steps.values != nullptr)
        pfree(steps.values);
    return untouched;
}

}  // namespace

// Devices write iterations back as they knew them, so the status may be reset to waiting; then its
// steps or the user's feedback show that it was dealt with. A time as far in the future as the
// longest review counts like one in the past.
bool waits_for_review(const JsonbFields& members, core::Instant now) {
    if (!is_text(members, "source", "server") ||
        !is_text(members, "overallStatus", "awaiting-review") ||
        says_something(members, "userFeedback") || says_something(members, "feedback"))
        return false;
    auto made_at = instant_of(members, "finishedAt");
    if (!made_at)
        made_at = instant_of(members, "startedAt");
    if (made_at && (*made_at < now - kLongestReview || *made_at > now + kLongestReview))
        return false;
    return is_untouched(members);
}

bool is_notice(const JsonbFields& members) {
    const JsonbValueRef* details = find_field(members, "errorDetails");
    return details != nullptr && pg::is_object(*details) && is_text(members, "source", "server") &&
           is_text(members, "overallStatus", "failed");
}

// Clients name no source.
std::optional<core::Instant> browser_run_start(const JsonbFields& members) {
    if (!is_text(members, "overallStatus", "running") || is_text(members, "source", "server"))
        return std::nullopt;
    return instant_of(members, "startedAt");
}

namespace {

Datum waiting_plans(Datum record) {
    const JsonbFields fields = pg::read_object(DatumGetJsonbP(record));
    const JsonbValueRef* iterations = find_field(fields, "iterations");
    const JsonbValues list = iterations == nullptr ? JsonbValues{} : pg::read_array(*iterations);
    auto* ids = static_cast<Datum*>(palloc(sizeof(Datum) * (static_cast<size_t>(list.count) + 1)));
    const core::Instant now = pg::now();
    int count = 0;
    for (uint32_t i = 0; i < list.count; i++) {
        const JsonbFields members = pg::read_object(list.values[i]);
        const JsonbValueRef* id = find_field(members, "id");
        const auto text = id == nullptr ? std::nullopt : pg::string_of(*id);
        if (text && waits_for_review(members, now))
            ids[count++] = pg::text_datum(*text);
        if (members.fields != nullptr)
            pfree(members.fields);
    }
    return PointerGetDatum(construct_array(ids, count, TEXTOID, -1, false, TYPALIGN_INT));
}

}  // namespace

}  // namespace mana_ai

extern "C" {

// waiting_plans(record): the ids of the iterations that wait for their user; null when the record
// is larger than mana_ai.max_record_size.
PG_FUNCTION_INFO_V1(mana_ai_waiting_plans);
PGDLLEXPORT Datum mana_ai_waiting_plans(PG_FUNCTION_ARGS) {
    using namespace mana_ai;
    if (is_too_large(PG_GETARG_DATUM(0)))
        PG_RETURN_NULL();
    return pg::entry_point(
        [fcinfo] { return pg::guarded([fcinfo] { return waiting_plans(PG_GETARG_DATUM(0)); }); });
}

}  // extern "C"
