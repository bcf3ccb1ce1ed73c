// Plans of ours that a device has taken away without having seen them (docs/contract/data.md, Lost
// plans). May ereport(ERROR): call it inside pg::guarded().
#pragma once

#include "mana_ai/pg/jsonb_object.hpp"

namespace mana_ai {

// Whether iterations lack one of the server's that was among those before. `now` may be nullptr.
bool lacks_server_iterations(const pg::JsonbValueRef* now, const pg::JsonbValueRef& before);

}  // namespace mana_ai
