// The rows that an SQL function returns as a set.
#pragma once

#include "mana_ai/pg/postgres.hpp"

extern "C" {
#include "funcapi.h"
#include "utils/tuplestore.h"
}

namespace mana_ai::pg {

struct RowSet {
    Tuplestorestate* store;
    TupleDesc descriptor;

    // Both as long as the descriptor. ereports: call it inside guarded().
    void add(Datum* values, bool* nulls) const {
        tuplestore_putvalues(store, descriptor, values, nulls);
    }
};

// Makes the function's result a set of rows, still without any. ereports, also where the caller
// cannot take a set: call it inside guarded(). PostgreSQL owns the rows.
RowSet begin_row_set(FunctionCallInfo fcinfo);

}  // namespace mana_ai::pg
