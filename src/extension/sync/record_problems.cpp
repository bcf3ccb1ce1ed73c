#include "mana_ai/extension/sync/record_problems.hpp"

#include "mana_ai/pg/guard.hpp"
#include "mana_ai/pg/text.hpp"
#include "mana_ai/pg/time.hpp"

extern "C" {
#include "catalog/pg_type.h"
#include "utils/array.h"
#include "utils/fmgrprotos.h"
#include "utils/numeric.h"
#include "utils/timestamp.h"
}

namespace mana_ai {

core::FieldValue field_value(const pg::JsonbValueRef* value) {
    using core::FieldValue;
    FieldValue field;
    if (value == nullptr)
        return field;
    switch (value->type) {
        case JENTRY_ISNULL:
            field.type = FieldValue::Type::Null;
            break;
        case JENTRY_ISSTRING:
            field.type = FieldValue::Type::String;
            field.text = {value->bytes, value->size};
            break;
        case JENTRY_ISCONTAINER: {
            const auto* container = reinterpret_cast<const JsonbContainer*>(value->bytes);
            field.type = (container->header & JB_FARRAY) != 0 ? FieldValue::Type::Array
                                                              : FieldValue::Type::Other;
            break;
        }
        default:
            field.type = FieldValue::Type::Other;
            break;
    }
    return field;
}

namespace {

std::optional<int64_t> number_of(const pg::JsonbValueRef* value) {
    if (value == nullptr || value->type != JENTRY_ISNUMERIC)
        return std::nullopt;
    const auto number = reinterpret_cast<Numeric>(const_cast<char*>(value->bytes));  // read only
    return core::whole_number(
        DatumGetCString(DirectFunctionCall1(numeric_out, NumericGetDatum(number))));
}

core::Cadence cadence_of(const pg::JsonbValueRef* value) {
    core::Cadence cadence;
    if (value == nullptr || value->type == JENTRY_ISNULL)
        return cadence;
    cadence.value = core::Cadence::Value::Other;
    if (value->type != JENTRY_ISCONTAINER)
        return cadence;
    const auto* container = reinterpret_cast<const JsonbContainer*>(value->bytes);
    if ((container->header & JB_FOBJECT) == 0)
        return cadence;
    cadence.value = core::Cadence::Value::Object;
    const pg::JsonbFields members = pg::read_object(*value);
    if (const auto* kind = pg::find_field(members, "kind"))
        cadence.kind = pg::string_of(*kind).value_or(std::string_view());
    cadence.every_minutes = number_of(pg::find_field(members, "everyMinutes"));
    cadence.at_hour = number_of(pg::find_field(members, "atHour"));
    cadence.at_minute = number_of(pg::find_field(members, "atMinute"));
    cadence.day_of_week = number_of(pg::find_field(members, "dayOfWeek"));
    if (const auto* expression = pg::find_field(members, "expression"))
        cadence.expression = pg::string_of(*expression);
    return cadence;
}

template <class Find>
void find_problems(const Find& find, core::Instant now, core::MissionProblems& problems) {
    const core::MissionFields fields{.title = field_value(find("title")),
                                     .objective = field_value(find("objective")),
                                     .concept_markdown = field_value(find("conceptMarkdown")),
                                     .state = field_value(find("state")),
                                     .next_run_at = field_value(find("nextRunAt")),
                                     .inputs = field_value(find("inputs")),
                                     .iterations = field_value(find("iterations")),
                                     .agent_id = field_value(find("agentId")),
                                     .cadence = cadence_of(find("cadence"))};
    core::find_mission_problems(fields, now, problems);
}

Datum text_array(const core::MissionProblems& problems) {
    Datum elements[core::MissionProblems::kMax];
    for (size_t i = 0; i < problems.size(); i++)
        elements[i] = pg::text_datum(problems[i]);
    return PointerGetDatum(construct_array(elements, static_cast<int>(problems.size()), TEXTOID, -1,
                                           false, TYPALIGN_INT));
}

}  // namespace

bool problems_of(const RecordState& state, core::Instant now, Datum* problems) {
    core::MissionProblems found;
    find_problems([&state](std::string_view name) { return find_value(state, name); }, now, found);
    if (found.size() == 0)
        return false;
    *problems = text_array(found);
    return true;
}

}  // namespace mana_ai

extern "C" {

// record_problems(record): what is wrong with a mission's record, as text[].
PG_FUNCTION_INFO_V1(mana_ai_record_problems);
PGDLLEXPORT Datum mana_ai_record_problems(PG_FUNCTION_ARGS) {
    using namespace mana_ai;
    return pg::entry_point([fcinfo] {
        return pg::guarded([fcinfo] {
            const pg::JsonbFields fields = pg::read_object(PG_GETARG_JSONB_P(0));
            core::MissionProblems found;
            find_problems([&fields](std::string_view name) { return pg::find_field(fields, name); },
                          pg::instant_from_timestamptz(GetCurrentTimestamp()), found);
            return text_array(found);
        });
    });
}

}  // extern "C"
