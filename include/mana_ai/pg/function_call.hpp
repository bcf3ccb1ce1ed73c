// Arguments of an SQL function in C, and the rows that it returns as a set.
#pragma once

#include <string>

#include "mana_ai/pg/postgres.hpp"

extern "C" {
#include "funcapi.h"
#include "utils/tuplestore.h"
}

namespace mana_ai::pg {

// Argument n, from 0, a text that is not null. Throws PgError.
std::string text_argument(FunctionCallInfo fcinfo, int n);

// For what the function returns. Both ereport: call them inside guarded().
TupleDesc result_descriptor(FunctionCallInfo fcinfo);
// One row; `values` and `nulls` are as long as the descriptor.
Datum row_result(FunctionCallInfo fcinfo, Datum* values, bool* nulls);

struct RowSet {
    Tuplestorestate* store;
    TupleDesc descriptor;

    // Both as long as the descriptor. ereports: call it inside guarded().
    void add(Datum* values, bool* nulls) const {
        tuplestore_putvalues(store, descriptor, values, nulls);
    }
};

// Makes the function's result a set of rows, empty at first. ereports, also if the caller cannot
// accept a set: call it inside guarded(). PostgreSQL owns the rows.
RowSet begin_row_set(FunctionCallInfo fcinfo);

}  // namespace mana_ai::pg
