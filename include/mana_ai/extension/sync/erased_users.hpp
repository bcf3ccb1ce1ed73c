// Users who were erased (docs/erasure.md): of them nothing is kept, whatever the log says.
//
// May ereport(ERROR): call it inside pg::guarded().
#pragma once

#include <cstdint>

#include "mana_ai/pg/postgres.hpp"

namespace mana_ai {

enum class Erasure : uint8_t {
    None,
    Erased,  // until our transaction ends: nobody readmits the user meanwhile
    Busy,    // nobody can tell at the moment: try again, or mark the record
};

// Costs next to nothing while nobody has been erased. None may be wrong for a user whose erasure
// commits before our transaction ends: whatever we have written by then is removed once it is over
// (erasures_under_way). Never waits.
Erasure erasure_of(Datum user_id);

}  // namespace mana_ai
