#include "mana_ai/extension/sync/record_reader.hpp"

#include <algorithm>
#include <map>

#include "mana_ai/extension/sync/log_leaves.hpp"
#include "mana_ai/extension/sync/replay.hpp"
#include "mana_ai/pg/text.hpp"

extern "C" {
#include "access/detoast.h"
#include "access/table.h"
#include "catalog/pg_type_d.h"
#include "executor/spi.h"
#include "executor/tuptable.h"
#include "nodes/params.h"
#include "tcop/dest.h"
}

namespace mana_ai {

namespace {

constexpr int kParams = 4;
constexpr int kLeafColumn = 7;  // behind change_row_columns()
// A folded record has its clocks in addition, and allocations are rounded up.
constexpr int64_t kFoldedPerStored = 4;

// app_id is compared in a way that no index supports. On a table without statistics the index on
// (user_id, app_id, table_name, …) would look better than the one on (table_name, record_id, …),
// and all of a user's tasks would be read for one of them.
std::string query_text(const SyncTable& table) {
    return "SELECT " + change_row_columns(table.stamps_column == "field_meta", table.has_space_id) +
           (table.is_partitioned ? ", tableoid FROM " : " FROM ONLY ") + table.qualified_name +
           " WHERE user_id = $1 AND app_id || '' = $2 AND table_name = $3 AND record_id = $4";
}

// Receives the rows from the executor one by one, without a cursor or a result table.
struct FoldReceiver {
    DestReceiver receiver;  // first: the executor knows only this part
    Fold* fold;
    int64_t max_size;           // 0: no limit
    const ClockBounds* bounds;  // nullptr: all rows count
    Oid log;                    // InvalidOid: it is not partitioned
    bool too_large;
};

void begin_rows(DestReceiver*, int, TupleDesc) {}
void end_rows(DestReceiver*) {}

// Whether one of the writes that were seen may be the row's.
bool has_written(const ClockBounds& bounds, const ChangeRowValues& values) {
    const core::Instant row_time = created_at_of(values);
    for (uint32_t i = 0; i < bounds.count; i++)
        if (bounds.fields[i].clock.row_time == row_time)
            return true;
    return false;
}

bool fold_result_row(TupleTableSlot* slot, DestReceiver* receiver) {
    ChangeRowValues values = change_row_values(
        1, [slot](int column, bool* is_null) { return slot_getattr(slot, column, is_null); });
    auto* target = reinterpret_cast<FoldReceiver*>(receiver);
    if (OidIsValid(target->log)) {
        bool is_null = false;
        const Datum leaf = slot_getattr(slot, kLeafColumn, &is_null);
        values.position |= place_of(target->log, DatumGetObjectId(leaf));
    }
    // Determined without reading the value.
    const auto is_too_large = [target](bool is_null, Datum value) {
        return !is_null && static_cast<int64_t>(toast_raw_datum_size(value)) > target->max_size;
    };
    if (target->max_size > 0) {
        const bool is_large = is_too_large(values.data_is_null, values.data) ||
                              is_too_large(values.stamps_is_null, values.stamps);
        // What a run has seen was of its size. Of other rows nothing counts: a write that is older
        // than the one that was seen loses against it.
        if (is_large && target->bounds != nullptr && !has_written(*target->bounds, values))
            return true;
        target->too_large = is_large || static_cast<int64_t>(target->fold->settled_size) >
                                            kFoldedPerStored * target->max_size;
        if (target->too_large)
            return false;
    }
    fold_row(*target->fold, values);
    return true;
}

SPIPlanPtr plan_of(RecordQuery& query) {
    if (query.plan == nullptr) {
        Oid types[kParams] = {TEXTOID, TEXTOID, TEXTOID, TEXTOID};
        // Partitions are pruned when a generic plan begins; planning all of them again takes
        // longer.
        const int options = OidIsValid(query.log) ? CURSOR_OPT_GENERIC_PLAN : 0;
        SPIPlanPtr plan = SPI_prepare_cursor(query.sql.c_str(), kParams, types, options);
        if (plan == nullptr)
            elog(ERROR, "SPI_prepare_cursor failed: %s", SPI_result_code_string(SPI_result));
        SPI_keepplan(plan);
        query.plan = plan;
    }
    return static_cast<SPIPlanPtr>(query.plan);
}

ParamListInfo params_of(const RecordAddress& address) {
    const Datum values[kParams] = {address.user_id, address.app_id, address.table_name,
                                   address.record_id};
    ParamListInfo params = makeParamList(kParams);
    for (int i = 0; i < kParams; i++) {
        params->params[i].value = values[i];
        params->params[i].isnull = false;
        params->params[i].pflags = PARAM_FLAG_CONST;
        params->params[i].ptype = TEXTOID;
    }
    return params;
}

}  // namespace

RecordQuery& record_query(const SyncTable& table) {
    static std::map<std::string, RecordQuery> queries;
    std::string sql = query_text(table);
    RecordQuery& query =
        queries.try_emplace(sql, RecordQuery{sql, nullptr, InvalidOid}).first->second;
    query.log = table.is_partitioned ? table.oid : InvalidOid;
    return query;
}

ReplayedRecord replay_by_query(RecordQuery& query, const RecordAddress& address,
                               const ReplayWish& wish) {
    if (SPI_connect() != SPI_OK_CONNECT)
        elog(ERROR, "SPI_connect failed");
    Fold fold;
    begin_fold(fold);
    fold.bounds = wish.bounds;

    FoldReceiver receiver{};
    receiver.receiver.receiveSlot = fold_result_row;
    receiver.receiver.rStartup = begin_rows;
    receiver.receiver.rShutdown = end_rows;
    receiver.receiver.rDestroy = end_rows;
    receiver.receiver.mydest = DestTuplestore;
    receiver.fold = &fold;
    receiver.max_size = wish.max_size;
    receiver.bounds = wish.bounds;
    receiver.log = query.log;
    SPIExecuteOptions options{};
    options.params = params_of(address);
    options.read_only = true;
    options.dest = &receiver.receiver;
    const int code = SPI_execute_plan_extended(plan_of(query), &options);
    if (code < 0)
        elog(ERROR, "SPI_execute_plan_extended failed: %s", SPI_result_code_string(code));

    ReplayedRecord result;
    result.too_large = receiver.too_large;
    if (!result.too_large && fold.state.exists && !is_deleted(fold.state)) {
        const Jsonb* record = record_of(shown_state(fold.state), pg::text_view(address.record_id));
        result.record = static_cast<Jsonb*>(SPI_palloc(VARSIZE(record)));
        memcpy(static_cast<void*>(result.record), record, VARSIZE(record));
        for (uint32_t i = 0; i < fold.state.count; i++)
            if (fold.state.fields[i].present)
                result.newest_clock =
                    std::max(result.newest_clock, fold.state.fields[i].clock.time);
    }
    if (!result.too_large && wish.bounds != nullptr)
        result.lost = count_lost(*wish.bounds, fold.state);
    if (result.record != nullptr && wish.clocked != nullptr) {
        const char* clocks = clock_vector_of(fold.state, *wish.clocked);
        char* copy = static_cast<char*>(SPI_palloc(strlen(clocks) + 1));
        memcpy(copy, clocks, strlen(clocks) + 1);
        result.clocks = copy;
    }
    SPI_finish();
    return result;
}

}  // namespace mana_ai
