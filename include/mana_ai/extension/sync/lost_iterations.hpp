// The server's plans that a device has removed without having seen them (docs/contract/data.md,
// Lost plans). May ereport(ERROR): call it inside pg::guarded().
#pragma once

#include "mana_ai/pg/jsonb_object.hpp"

namespace mana_ai {

// Whether a server's iteration is in `before` but not in `now`. `now` may be nullptr.
bool lacks_server_iterations(const pg::JsonbValueRef* now, const pg::JsonbValueRef& before);

}  // namespace mana_ai
