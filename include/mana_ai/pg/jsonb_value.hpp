// A jsonb value as core::Json, converted without its text form: for an encrypted record of 20
// fields, printing and parsing took longer than finding and opening it.
#pragma once

#include <optional>

#include "mana_ai/core/text/json.hpp"
#include "mana_ai/pg/jsonb_object.hpp"

namespace mana_ai::pg {

// nullopt: nested deeper than core::kMaxJsonDepth. A number that core::Json cannot hold becomes
// null. Strings are copied unchanged. Throws PgError when memory runs out; not to be called inside
// guarded(). Temporary memory comes from the current memory context and stays there.
std::optional<core::Json> to_json(const JsonbValueRef& value);

}  // namespace mana_ai::pg
