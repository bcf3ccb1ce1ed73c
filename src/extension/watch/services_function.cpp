// mana_ai.services(): the worker's state of the services that it calls.

#include "mana_ai/pg/function_call.hpp"
#include "mana_ai/pg/guard.hpp"
#include "mana_ai/pg/shared_state.hpp"
#include "mana_ai/pg/time.hpp"

extern "C" {
#include "miscadmin.h"
}

extern "C" {

PG_FUNCTION_INFO_V1(mana_ai_services);
PGDLLEXPORT Datum mana_ai_services(PG_FUNCTION_ARGS) {
    using namespace mana_ai;
    return pg::entry_point([fcinfo] {
        const pg::RowSet rows = pg::guarded([fcinfo] { return pg::begin_row_set(fcinfo); });
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
                rows.add(values, nulls);
            });
        }
        return Datum{0};
    });
}

}  // extern "C"
