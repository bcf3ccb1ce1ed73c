// Long values as they are stored: compressed, or in a table of their own.
//
// The functions may ereport(ERROR): call them inside guarded().
#pragma once

#include "mana_ai/pg/postgres.hpp"

namespace mana_ai::pg {

// As PG_DETOAST_DATUM() and PG_DETOAST_DATUM_COPY(), and faster for what pglz has compressed.
varlena* detoast(Datum value);
varlena* detoast_copy(Datum value);

}  // namespace mana_ai::pg
