#include "mana_ai/extension/run/mission_rows.hpp"

#include <algorithm>
#include <cstdint>

#include "mana_ai/pg/guard.hpp"
#include "mana_ai/pg/settings.hpp"
#include "mana_ai/pg/text.hpp"

extern "C" {
#include "access/detoast.h"
#include "catalog/pg_type_d.h"
#include "executor/spi.h"
}

namespace mana_ai {

namespace {

// How much of a mission's history is read, newest rows first: devices push the whole list with
// every edit, so an old mission's history can be gigabytes. A recently removed plan is in the
// newest rows.
constexpr int64_t kMostBytesRead = 64 * 1024 * 1024;
constexpr int64_t kMostRowsRead = 1000;

// What a device has made of a plan is overwritten at once or never, so it is in the newest of
// these.
constexpr int64_t kRecentBytes = 8 * 1024 * 1024;
constexpr size_t kMostRecentRows = 50;

std::string from_log(const SyncTable& table) {
    return (table.is_partitioned ? "FROM " : "FROM ONLY ") + table.qualified_name + " c";
}

}  // namespace

std::string rows_of_mission(const SyncTable& table, const std::string& elements) {
    return from_log(table) + elements +
           " WHERE c.user_id = $1 AND c.app_id || '' = 'ai' AND c.table_name = 'aiMissions'"
           " AND c.record_id = $2";
}

// A ctid is unique in a leaf only.
std::string place_of_row(const SyncTable& table) {
    return table.is_partitioned ? "c.tableoid::text || c.ctid::text" : "c.ctid::text";
}

std::string place_columns(const SyncTable& table) {
    return table.is_partitioned ? "c.ctid AS place, c.tableoid AS leaf"
                                : "c.ctid AS place, NULL::oid AS leaf";
}

std::string is_at_places(const SyncTable& table) {
    if (!table.is_partitioned)
        return "c.ctid = ANY ($3::text[]::tid[])";
    return "c.ctid = ANY (ARRAY(SELECT substr(p.place, strpos(p.place, '('))::tid"
           " FROM unnest($3::text[]) AS p(place))) AND (" +
           place_of_row(table) + ") = ANY ($3::text[])";
}

std::string row_at(const SyncTable& table, const std::string& place, const std::string& leaf) {
    const std::string at = from_log(table) + " WHERE c.ctid = " + place;
    return table.is_partitioned ? at + " AND c.user_id = $1 AND c.tableoid = " + leaf : at;
}

std::string iterations_stamp(const SyncTable& table) {
    return "left(coalesce(c." + table.stamps_column + " -> 'iterations' ->> 'at', c." +
           table.stamps_column + " ->> 'iterations', ''), 100)";
}

std::string names_iteration(const SyncTable& table) {
    if (!table.has_actor)
        return "false";
    return R"sql(coalesce(c.client_id = 'mana-ai-runner' AND pg_column_size(c.actor) <= 65536
           AND c.actor ->> 'iterationId' IS NOT DISTINCT FROM e.iteration ->> 'id'
           AND e.iteration ->> 'id' ~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$', false))sql";
}

NewestRows newest_rows(const SyncTable& table, std::string_view user_id,
                       std::string_view mission_id) {
    const int64_t limit = pg::settings::max_record_size();
    // So that even with large records one of the newest rows is likely the server's.
    int64_t room = std::max(kMostBytesRead, 4 * limit);
    const std::string sql = "SELECT " + place_of_row(table) + ", c.data " + rows_of_mission(table) +
                            " ORDER BY c.created_at DESC LIMIT " + std::to_string(kMostRowsRead);
    NewestRows rows;
    int64_t read = 0;
    bool is_recent = true;
    pg::guarded([&] {
        Oid types[] = {TEXTOID, TEXTOID};
        Datum values[] = {pg::text_datum(user_id), pg::text_datum(mission_id)};
        if (SPI_connect() != SPI_OK_CONNECT)
            elog(ERROR, "SPI_connect failed");
        const int code =
            SPI_execute_with_args(sql.c_str(), lengthof(types), types, values, nullptr, false, 0);
        if (code != SPI_OK_SELECT)
            elog(ERROR, "SPI_execute_with_args failed: %s", SPI_result_code_string(code));
        for (uint64 i = 0; i < SPI_processed; i++) {
            bool is_null = false;
            const Datum data =
                SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 2, &is_null);
            const int64_t size = is_null ? 0 : static_cast<int64_t>(toast_raw_datum_size(data));
            if (size > limit)
                continue;
            room -= size;
            if (room < 0)
                break;
            rows.places.emplace_back(SPI_getvalue(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1));
            read += size;
            is_recent &= rows.recent.size() < kMostRecentRows &&
                         (rows.recent.size() < 2 || read <= kRecentBytes);
            if (is_recent)
                rows.recent.push_back(rows.places.back());
        }
        SPI_finish();
    });
    return rows;
}

}  // namespace mana_ai
