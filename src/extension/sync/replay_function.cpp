// mana_ai.replay(), and functions for a record's clocks that the extension's SQL uses.

#include <algorithm>
#include <string_view>

#include "mana_ai/extension/sync/record_reader.hpp"
#include "mana_ai/pg/guard.hpp"
#include "mana_ai/pg/text.hpp"
#include "mana_ai/pg/time.hpp"

extern "C" {
#include "catalog/pg_type_d.h"
#include "utils/array.h"
#include "utils/jsonb.h"
}

extern "C" {

PG_FUNCTION_INFO_V1(mana_ai_replay);
PGDLLEXPORT Datum mana_ai_replay(PG_FUNCTION_ARGS) {
    using namespace mana_ai;
    Jsonb* record = pg::entry_point([fcinfo] {
        const SyncTable table = attached_sync_table();
        RecordQuery& query = record_query(table);
        return pg::guarded([&] {
            const RecordAddress address{PG_GETARG_DATUM(0), PG_GETARG_DATUM(1), PG_GETARG_DATUM(2),
                                        PG_GETARG_DATUM(3)};
            return replay_by_query(query, address).record;
        });
    });
    if (record == nullptr)
        PG_RETURN_NULL();
    PG_RETURN_JSONB_P(record);
}

// newest_clock(record, clocks, fields): the latest instant at which one of the fields was written.
PG_FUNCTION_INFO_V1(mana_ai_newest_clock);
PGDLLEXPORT Datum mana_ai_newest_clock(PG_FUNCTION_ARGS) {
    using namespace mana_ai;
    const core::Instant newest = pg::entry_point([fcinfo] {
        return pg::guarded([fcinfo] {
            const Jsonb* record = PG_GETARG_JSONB_P(0);
            const bytea* clocks = PG_GETARG_BYTEA_P(1);
            RecordState state;
            // Damaged clocks have no information.
            if (!read_state(state, record, clocks, 0, false, {}))
                return core::kOlderThanEverything;
            Datum* names = nullptr;
            bool* nulls = nullptr;
            int count = 0;
            deconstruct_array(PG_GETARG_ARRAYTYPE_P(2), TEXTOID, -1, false, TYPALIGN_INT, &names,
                              &nulls, &count);
            core::Instant latest = core::kOlderThanEverything;
            for (uint32_t i = 0; i < state.count; i++) {
                for (int k = 0; k < count; k++) {
                    if (nulls[k])
                        continue;
                    if (core::head_of(state.fields[i].field.name()) == pg::text_view(names[k]))
                        latest = std::max(latest, state.fields[i].clock.time);
                }
            }
            return latest;
        });
    });
    if (newest == core::kOlderThanEverything)
        PG_RETURN_NULL();
    PG_RETURN_TIMESTAMPTZ(pg::timestamptz_from_instant(newest));
}

}  // extern "C"
