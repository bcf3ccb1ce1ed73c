// mana_ai.replay(), and what SQL of ours needs to know of a record's clocks.

#include <algorithm>
#include <string>

#include "mana_ai/extension/replay.hpp"
#include "mana_ai/extension/sync_table.hpp"
#include "mana_ai/pg/guard.hpp"
#include "mana_ai/pg/time.hpp"

extern "C" {
#include "access/table.h"
#include "catalog/pg_type_d.h"
#include "executor/spi.h"
#include "utils/array.h"
#include "utils/jsonb.h"
}

namespace mana_ai {

namespace {

enum Column { kOp = 1, kData, kStamps, kCreatedAt, kSpaceId, kPosition };

std::string replay_query(const SyncTable& table) {
    return "SELECT op, data, " + table.stamps_column + ", created_at, " +
           (table.has_space_id ? "space_id" : "NULL::pg_catalog.text") + ", ctid FROM ONLY " +
           table.qualified_name +
           " WHERE user_id = $1 AND app_id = $2 AND table_name = $3 AND record_id = $4";
}

void fold_result_row(Fold& fold, HeapTuple tuple, TupleDesc descriptor) {
    bool is_null = false;
    ChangeRowValues values{};
    values.op = SPI_getbinval(tuple, descriptor, kOp, &is_null);
    if (is_null)
        values.op = PointerGetDatum(cstring_to_text(""));
    values.data = SPI_getbinval(tuple, descriptor, kData, &values.data_is_null);
    values.stamps = SPI_getbinval(tuple, descriptor, kStamps, &values.stamps_is_null);
    values.created_at = SPI_getbinval(tuple, descriptor, kCreatedAt, &values.created_at_is_null);
    values.space = SPI_getbinval(tuple, descriptor, kSpaceId, &values.space_is_null);
    values.position = SPI_getbinval(tuple, descriptor, kPosition, &is_null);
    fold_row(fold, values);
}

// Reads through SQL and so with the caller's rights and policies, unlike the trigger's own replay.
Jsonb* replay_as_caller(const SyncTable& table, const std::string& query, Datum* key,
                        Datum record_id) {
    constexpr int kFetch = 1000;
    Relation log = table_open(table.oid, AccessShareLock);
    const uint32_t generation = log_generation(log);
    table_close(log, NoLock);
    Oid types[4] = {TEXTOID, TEXTOID, TEXTOID, TEXTOID};
    if (SPI_connect() != SPI_OK_CONNECT)
        elog(ERROR, "SPI_connect failed");
    Fold fold;
    begin_fold(fold, generation);
    Portal cursor = SPI_cursor_open_with_args(nullptr, query.c_str(), 4, types, key, nullptr, true,
                                              CURSOR_OPT_NO_SCROLL);
    for (;;) {
        CHECK_FOR_INTERRUPTS();
        SPI_cursor_fetch(cursor, true, kFetch);
        if (SPI_processed == 0)
            break;
        for (uint64 i = 0; i < SPI_processed; i++)
            fold_result_row(fold, SPI_tuptable->vals[i], SPI_tuptable->tupdesc);
        SPI_freetuptable(SPI_tuptable);
    }
    SPI_cursor_close(cursor);
    Jsonb* result = nullptr;
    if (fold.state.exists && !is_deleted(fold.state)) {
        const text* id = DatumGetTextPP(record_id);
        const Jsonb* record =
            record_of(fold.state, {VARDATA_ANY(id), static_cast<size_t>(VARSIZE_ANY_EXHDR(id))});
        result = static_cast<Jsonb*>(SPI_palloc(VARSIZE(record)));
        memcpy(static_cast<void*>(result), record, VARSIZE(record));
    }
    SPI_finish();
    return result;
}

}  // namespace

}  // namespace mana_ai

extern "C" {

PG_FUNCTION_INFO_V1(mana_ai_replay);
PGDLLEXPORT Datum mana_ai_replay(PG_FUNCTION_ARGS) {
    using namespace mana_ai;
    Jsonb* record = pg::entry_point([fcinfo] {
        const SyncTable table = attached_sync_table();
        const std::string query = replay_query(table);
        return pg::guarded([&] {
            Datum key[4] = {PG_GETARG_DATUM(0), PG_GETARG_DATUM(1), PG_GETARG_DATUM(2),
                            PG_GETARG_DATUM(3)};
            return replay_as_caller(table, query, key, key[3]);
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
            if (!read_state(state, record, clocks, 0, false, {}))
                ereport(ERROR, (errcode(ERRCODE_DATA_CORRUPTED),
                                errmsg("the clocks of a snapshot do not fit its record"),
                                errhint("Call mana_ai.refresh_snapshots().")));
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
                    const text* name = DatumGetTextPP(names[k]);
                    if (state.fields[i].field.name() ==
                        std::string_view(VARDATA_ANY(name), VARSIZE_ANY_EXHDR(name)))
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
