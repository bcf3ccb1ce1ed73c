// What is wrong with a mission's record, stored with its snapshot (mana_ai.mission_problems).
//
// The functions may ereport(ERROR): call them inside pg::guarded().
#pragma once

#include "mana_ai/core/record/mission_problems.hpp"
#include "mana_ai/extension/sync/lww_record.hpp"

namespace mana_ai {

// Null: the record has no such field. The text belongs to the value.
core::FieldValue field_value(const pg::JsonbValueRef* value);

// text[] in the current memory context; false: nothing is wrong.
bool problems_of(const RecordState& state, core::Instant now, Datum* problems);

}  // namespace mana_ai
