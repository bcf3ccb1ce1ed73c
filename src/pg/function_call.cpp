#include "mana_ai/pg/function_call.hpp"

#include "mana_ai/pg/guard.hpp"
#include "mana_ai/pg/text.hpp"

extern "C" {
#include "miscadmin.h"
}

namespace mana_ai::pg {

std::string text_argument(FunctionCallInfo fcinfo, int n) {
    return std::string(guarded([=] { return text_view(PG_GETARG_DATUM(n)); }));
}

TupleDesc result_descriptor(FunctionCallInfo fcinfo) {
    TupleDesc descriptor = nullptr;
    if (get_call_result_type(fcinfo, nullptr, &descriptor) != TYPEFUNC_COMPOSITE)
        elog(ERROR, "return type must be a row type");
    return BlessTupleDesc(descriptor);
}

Datum row_result(FunctionCallInfo fcinfo, Datum* values, bool* nulls) {
    return HeapTupleGetDatum(heap_form_tuple(result_descriptor(fcinfo), values, nulls));
}

RowSet begin_row_set(FunctionCallInfo fcinfo) {
    auto* result = reinterpret_cast<ReturnSetInfo*>(fcinfo->resultinfo);
    if (result == nullptr || !IsA(result, ReturnSetInfo) ||
        (result->allowedModes & SFRM_Materialize) == 0)
        ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
                        errmsg("set-valued function called in context that cannot accept a set")));
    const TupleDesc descriptor = result_descriptor(fcinfo);
    MemoryContext outer = MemoryContextSwitchTo(result->econtext->ecxt_per_query_memory);
    Tuplestorestate* store = tuplestore_begin_heap(
        (result->allowedModes & SFRM_Materialize_Random) != 0, false, work_mem);
    result->returnMode = SFRM_Materialize;
    result->setResult = store;
    result->setDesc = CreateTupleDescCopy(descriptor);
    MemoryContextSwitchTo(outer);
    return {store, result->setDesc};
}

}  // namespace mana_ai::pg
