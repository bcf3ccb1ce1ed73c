// Users who were erased (docs/erasure.md): nothing of them is stored, whatever the log says.
//
// May ereport(ERROR): call it inside pg::guarded().
#pragma once

#include <cstdint>

#include "mana_ai/pg/postgres.hpp"

namespace mana_ai {

enum class Erasure : uint8_t {
    None,
    Erased,  // until our transaction ends, which blocks readmitting the user
    Busy,    // unknown at the moment: try again, or mark the record
};

// Costs almost nothing while nobody has been erased. None may be wrong for a user whose erasure
// commits before our transaction ends: what we write is then removed after its end
// (erasures_under_way). Never waits.
Erasure erasure_of(Datum user_id);

}  // namespace mana_ai
