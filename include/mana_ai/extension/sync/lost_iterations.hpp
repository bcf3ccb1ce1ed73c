// The server's plans that a device has removed or set back without having seen what they are now
// (docs/contract/data.md, Lost plans). May ereport(ERROR): call it inside pg::guarded().
#pragma once

#include "mana_ai/pg/jsonb_object.hpp"

namespace mana_ai {

// Whether `now` has less of a server's iteration than `before`: not the iteration, a step open that
// a device had dealt with, or no feedback. `now` may be nullptr.
bool has_less_of_server_iterations(const pg::JsonbValueRef* now, const pg::JsonbValueRef& before);

}  // namespace mana_ai
