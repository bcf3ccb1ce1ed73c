// The row that an SQL function returns, made of JSON.
#pragma once

#include "mana_ai/core/text/json.hpp"
#include "mana_ai/pg/function_call.hpp"

namespace mana_ai {

// Each column is the member of its name in its text form; null where there is none. Throws PgError.
Datum row_of_json(FunctionCallInfo fcinfo, const core::Json& values);

}  // namespace mana_ai
