// mana_ai.services(): what the worker knows of the services that it calls.

#include "mana_ai/pg/guard.hpp"
#include "mana_ai/pg/shared_state.hpp"
#include "mana_ai/pg/time.hpp"

extern "C" {
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/tuplestore.h"
}

extern "C" {

PG_FUNCTION_INFO_V1(mana_ai_services);
PGDLLEXPORT Datum mana_ai_services(PG_FUNCTION_ARGS) {
    using namespace mana_ai;
    return pg::entry_point([fcinfo] {
        struct Rows {
            Tuplestorestate* store;
            TupleDesc descriptor;
        };
        const Rows rows = pg::guarded([fcinfo] {
            auto* result = reinterpret_cast<ReturnSetInfo*>(fcinfo->resultinfo);
            if (result == nullptr || !IsA(result, ReturnSetInfo) ||
                (result->allowedModes & SFRM_Materialize) == 0)
                ereport(ERROR,
                        (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
                         errmsg("set-valued function called in context that cannot accept a set")));
            TupleDesc descriptor = nullptr;
            if (get_call_result_type(fcinfo, nullptr, &descriptor) != TYPEFUNC_COMPOSITE)
                elog(ERROR, "return type must be a row type");
            MemoryContext outer = MemoryContextSwitchTo(result->econtext->ecxt_per_query_memory);
            Tuplestorestate* store = tuplestore_begin_heap(
                (result->allowedModes & SFRM_Materialize_Random) != 0, false, work_mem);
            result->returnMode = SFRM_Materialize;
            result->setResult = store;
            result->setDesc = CreateTupleDescCopy(descriptor);
            MemoryContextSwitchTo(outer);
            return Rows{store, result->setDesc};
        });
        for (const auto& view : pg::shared_state::services_of(MyDatabaseId)) {
            pg::guarded([&] {
                Datum values[11] = {
                    CStringGetTextDatum(view.service.c_str()),
                    CStringGetTextDatum(view.name.c_str()),
                    CStringGetTextDatum(view.state.c_str()),
                    TimestampTzGetDatum(pg::timestamptz_from_instant(view.since.value_or(0))),
                    Int32GetDatum(view.limit),
                    Int32GetDatum(view.in_flight),
                    Int32GetDatum(view.waiting),
                    Float8GetDatum(view.per_minute),
                    Int64GetDatum(view.refused),
                    Int64GetDatum(view.failed),
                    TimestampTzGetDatum(pg::timestamptz_from_instant(view.next_try_at.value_or(0))),
                };
                bool nulls[11] = {};
                nulls[1] = view.name.empty();
                nulls[3] = !view.since;
                nulls[7] = view.per_minute <= 0;
                nulls[10] = !view.next_try_at;
                tuplestore_putvalues(rows.store, rows.descriptor, values, nulls);
            });
        }
        return Datum{0};
    });
}

}  // extern "C"
