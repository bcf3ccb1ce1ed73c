// What of a run's records has changed since (docs/lineage.md).
//
// In SQL the answer is an instant: null = nothing has, infinity = nobody knows when, -infinity =
// nobody can tell.

#include <algorithm>
#include <optional>
#include <string>

#include "mana_ai/core/record/mission_input.hpp"
#include "mana_ai/extension/input/changed_reads.hpp"
#include "mana_ai/extension/input/input_records.hpp"
#include "mana_ai/pg/function_call.hpp"
#include "mana_ai/pg/guard.hpp"
#include "mana_ai/pg/scratch_memory.hpp"
#include "mana_ai/pg/settings.hpp"
#include "mana_ai/pg/subtransaction.hpp"
#include "mana_ai/pg/text.hpp"
#include "mana_ai/pg/time.hpp"

extern "C" {
#include "catalog/pg_type_d.h"
#include "utils/array.h"
#include "utils/jsonb.h"
#include "utils/timestamp.h"
}

namespace mana_ai {

namespace {

constexpr ReadChange kUnknown{ReadState::Unknown, kUnknownChange};

// What the fields that are now have more, or less, than those that were seen. Clocks of a record
// only grow; older ones say that rows are gone.
ReadChange change_of_bounds(const ClockBounds& seen, const ClockBounds& now) {
    ReadChange change;
    core::Instant newest = core::kOlderThanEverything;
    for (uint32_t i = 0; i < now.count; i++) {
        const ClockBound& bound = now.fields[i];
        const ClockBound* before = find_bound(seen, bound.name_hash);
        if (before == nullptr || core::is_older(before->clock, bound.clock))
            newest = std::max(newest, bound.clock.row_time);
        else if (!core::is_older(bound.clock, before->clock))
            continue;
        change.state = ReadState::Changed;
    }
    if (newest != core::kOlderThanEverything)
        change.at = newest;
    return change;
}

ReadFields fields_of(Datum names) {
    Datum* elements = nullptr;
    bool* nulls = nullptr;
    int count = 0;
    deconstruct_array(DatumGetArrayTypeP(names), TEXTOID, -1, false, TYPALIGN_INT, &elements,
                      &nulls, &count);
    auto* fields = static_cast<std::string_view*>(
        palloc(sizeof(std::string_view) * (static_cast<size_t>(count) + 1)));
    size_t used = 0;
    for (int i = 0; i < count; i++) {
        if (nulls[i])
            continue;
        fields[used++] = pg::text_view(elements[i]);
    }
    return ReadFields{{fields, used}};
}

}  // namespace

ReadChange change_of_clocks(std::string_view seen, std::string_view now) {
    if (seen == now)
        return {};
    if (is_digest_of_clocks(seen))
        return {digest_of_clocks(now) == seen ? ReadState::Same : ReadState::Changed,
                kUnknownChange};
    if (is_digest_of_clocks(now))
        return {ReadState::Changed, kUnknownChange};
    const pg::ScratchMemory scratch("mana_ai clocks");
    return pg::guarded([&] {
        ClockBounds before;
        ClockBounds after;
        if (!read_clock_vector(seen, before) || !read_clock_vector(now, after))
            return kUnknown;
        ReadChange change = change_of_bounds(before, after);
        change.state = ReadState::Changed;
        return change;
    });
}

ReadChange change_of_input(const SeenInput& seen, int64_t limit_us) {
    const core::InputModule* module = core::built_in_module(seen.module);
    if (module == nullptr)
        return kUnknown;
    const std::string user_id(seen.user_id);
    std::optional<InputRecord> found;
    const auto error = pg::in_subtransaction([&] {
        found = read_input_record(user_id, *module, seen.table, seen.id, limit_us);
        return true;
    });
    if (error)
        return kUnknown;
    if (!found)
        return {seen.was_there ? ReadState::Changed : ReadState::Same, kUnknownChange};
    const RecordClocks& now = found->clocks;
    ReadChange change = change_of_clocks(seen.clocks.own, now.own);
    if (!seen.was_there)
        change.state = ReadState::Changed;
    // Another id is another value of the record's own field. None: the linked record has come or
    // gone.
    if (change.state != ReadState::Same)
        return change;
    if (!seen.clocks.linked_was_read || !now.linked_was_read)
        return kUnknown;
    if (seen.clocks.linked_id == now.linked_id)
        return change_of_clocks(seen.clocks.linked, now.linked);
    return {ReadState::Changed, kUnknownChange};
}

namespace {

Datum instant_datum(const ReadChange& change, bool& is_null) {
    is_null = change.state == ReadState::Same;
    if (is_null)
        return Datum{0};
    if (change.state == ReadState::Unknown)
        return TimestampTzGetDatum(DT_NOBEGIN);
    return TimestampTzGetDatum(
        change.at == kUnknownChange ? DT_NOEND : pg::timestamptz_from_instant(change.at));
}

Datum return_change(FunctionCallInfo fcinfo, const ReadChange& change) {
    return instant_datum(change, fcinfo->isnull);
}

}  // namespace

}  // namespace mana_ai

extern "C" {

// changed_since(record, clocks, fields, seen): of those fields alone; what was seen may be of
// others, too.
PG_FUNCTION_INFO_V1(mana_ai_changed_since);
PGDLLEXPORT Datum mana_ai_changed_since(PG_FUNCTION_ARGS) {
    using namespace mana_ai;
    const ReadChange change = pg::entry_point([fcinfo] {
        return pg::guarded([fcinfo] {
            RecordState state;
            ClockBounds seen;
            ClockBounds now;
            const ReadFields fields = fields_of(PG_GETARG_DATUM(2));
            if (!read_state(state, PG_GETARG_JSONB_P(0), PG_GETARG_BYTEA_P(1), 0, false, {}) ||
                !read_clock_vector(pg::text_view(PG_GETARG_DATUM(3)), seen) || seen.count == 0 ||
                !read_clock_vector(clock_vector_of(state, fields), now))
                return kUnknown;
            return change_of_bounds(seen, now);
        });
    });
    return return_change(fcinfo, change);
}

// clocks_of_fields(record, clocks, fields): in the form of run_reads, as hexadecimal digits; null:
// the clocks are damaged.
PG_FUNCTION_INFO_V1(mana_ai_clocks_of_fields);
PGDLLEXPORT Datum mana_ai_clocks_of_fields(PG_FUNCTION_ARGS) {
    using namespace mana_ai;
    const char* vector = pg::entry_point([fcinfo] {
        return pg::guarded([fcinfo]() -> const char* {
            RecordState state;
            const ReadFields fields = fields_of(PG_GETARG_DATUM(2));
            if (!read_state(state, PG_GETARG_JSONB_P(0), PG_GETARG_BYTEA_P(1), 0, false, {}))
                return nullptr;
            return clock_vector_of(state, fields);
        });
    });
    if (vector == nullptr)
        PG_RETURN_NULL();
    PG_RETURN_TEXT_P(cstring_to_text(vector));
}

// change_of_clocks(seen, now): of two such texts, of the same fields.
PG_FUNCTION_INFO_V1(mana_ai_change_of_clocks);
PGDLLEXPORT Datum mana_ai_change_of_clocks(PG_FUNCTION_ARGS) {
    using namespace mana_ai;
    const ReadChange change = pg::entry_point([fcinfo] {
        return change_of_clocks(pg::text_argument(fcinfo, 0), pg::text_argument(fcinfo, 1));
    });
    return return_change(fcinfo, change);
}

// input_changed_since(user_id, module, table_name, record_id, seen, linked_id, linked_seen): of a
// record that a mission refers to, as its user's policies show it. `seen` as hexadecimal digits,
// null = there was no such record; linked_seen as well, null = it could not be read.
PG_FUNCTION_INFO_V1(mana_ai_input_changed_since);
PGDLLEXPORT Datum mana_ai_input_changed_since(PG_FUNCTION_ARGS) {
    using namespace mana_ai;
    for (int i = 0; i < 4; i++)
        if (PG_ARGISNULL(i))
            PG_RETURN_NULL();
    const ReadChange change = pg::entry_point([fcinfo] {
        const auto argument = [fcinfo](int n) {
            return PG_ARGISNULL(n) ? std::string() : pg::text_argument(fcinfo, n);
        };
        const std::string user_id = argument(0);
        const std::string module = argument(1);
        const std::string table = argument(2);
        const std::string id = argument(3);
        SeenInput seen{user_id, module, table, id, !PG_ARGISNULL(4), {}};
        seen.clocks.own = argument(4);
        seen.clocks.linked_id = argument(5);
        seen.clocks.linked = argument(6);
        seen.clocks.linked_was_read = PG_ARGISNULL(5) || !PG_ARGISNULL(6);
        return change_of_input(seen, pg::settings::sync_table_timeout_us());
    });
    return return_change(fcinfo, change);
}

}  // extern "C"
