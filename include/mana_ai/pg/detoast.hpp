// Stored forms of long values: compressed, or in a TOAST table.
//
// The functions may ereport(ERROR): call them inside guarded().
#pragma once

#include "mana_ai/pg/postgres.hpp"

namespace mana_ai::pg {

// As PG_DETOAST_DATUM() and PG_DETOAST_DATUM_COPY(), but faster for pglz.
varlena* detoast(Datum value);
varlena* detoast_copy(Datum value);

}  // namespace mana_ai::pg
