// Which of a run's records have changed since (docs/lineage.md): changed_since() for a snapshot,
// input_changed_since() for a record that a mission refers to.

#include <algorithm>
#include <optional>
#include <string>

#include "mana_ai/core/record/mission_input.hpp"
#include "mana_ai/extension/input/changed_reads.hpp"
#include "mana_ai/extension/input/input_records.hpp"
#include "mana_ai/pg/function_call.hpp"
#include "mana_ai/pg/guard.hpp"
#include "mana_ai/pg/scratch_memory.hpp"
#include "mana_ai/pg/subtransaction.hpp"
#include "mana_ai/pg/time.hpp"

extern "C" {
#include "catalog/pg_type_d.h"
#include "utils/array.h"
#include "utils/jsonb.h"
#include "utils/timestamp.h"
}

namespace mana_ai {

namespace {

// Both as hexadecimal digits; empty = no such record.
std::optional<core::Instant> change_between(const std::string& seen, const std::string& now) {
    if (seen == now || seen == kClocksNotKept)
        return std::nullopt;
    const pg::ScratchMemory scratch("mana_ai clocks");
    const ClockChange change = pg::guarded([&] {
        ClockBounds before;
        ClockBounds after;
        if (!read_clock_vector(seen, before) || !read_clock_vector(now, after))
            return ClockChange{true, kUnknownChange};
        return change_of_clocks(before, after, true);
    });
    return change.has_changed ? std::optional(change.at) : std::nullopt;
}

}  // namespace

ClockChange change_of_clocks(const ClockBounds& seen, const ClockBounds& now, bool is_whole) {
    ClockChange change;
    for (uint32_t i = 0; i < now.count; i++) {
        const ClockBound& bound = now.fields[i];
        const ClockBound* before = find_bound(seen, bound.name_hash);
        if (before != nullptr && !core::is_older(before->clock, bound.clock))
            continue;
        change.has_changed = true;
        change.at = std::max(change.at, bound.clock.row_time);
    }
    for (uint32_t i = 0; is_whole && !change.has_changed && i < seen.count; i++)
        if (find_bound(now, seen.fields[i].name_hash) == nullptr)
            change = {true, kUnknownChange};
    return change;
}

std::optional<core::Instant> input_change(const std::string& user_id, std::string_view module_name,
                                          std::string_view table, std::string_view id,
                                          const RecordClocks& seen) {
    const core::InputModule* module = core::built_in_module(module_name);
    if (module == nullptr)
        return std::nullopt;
    RecordClocks now;
    const auto error = pg::in_subtransaction([&] {
        if (auto found = read_input_record(user_id, *module, table, id))
            now = std::move(found->clocks);
        return true;
    });
    if (error)
        return std::nullopt;
    auto change = change_between(seen.own, now.own);
    // Another id is another value of the record's own field. None: the linked record was created or
    // deleted.
    if (!change && seen.linked_id == now.linked_id)
        change = change_between(seen.linked, now.linked);
    else if (!change && (seen.linked_id.empty() || now.linked_id.empty()))
        change = kUnknownChange;
    return change;
}

}  // namespace mana_ai

extern "C" {

// changed_since(record, clocks, fields, seen): when one of the fields was last written, if that was
// after the clocks that were seen.
PG_FUNCTION_INFO_V1(mana_ai_changed_since);
PGDLLEXPORT Datum mana_ai_changed_since(PG_FUNCTION_ARGS) {
    using namespace mana_ai;
    const ClockChange change = pg::entry_point([fcinfo] {
        return pg::guarded([fcinfo] {
            const Jsonb* record = PG_GETARG_JSONB_P(0);
            const bytea* clocks = PG_GETARG_BYTEA_P(1);
            RecordState state;
            ClockBounds seen;
            ClockBounds now;
            Datum* names = nullptr;
            bool* nulls = nullptr;
            int count = 0;
            deconstruct_array(PG_GETARG_ARRAYTYPE_P(2), TEXTOID, -1, false, TYPALIGN_INT, &names,
                              &nulls, &count);
            auto* fields = static_cast<std::string_view*>(
                palloc(sizeof(std::string_view) * (static_cast<size_t>(count) + 1)));
            size_t used = 0;
            for (int i = 0; i < count; i++) {
                if (nulls[i])
                    continue;
                const text* name = DatumGetTextPP(names[i]);
                fields[used++] = {VARDATA_ANY(name), VARSIZE_ANY_EXHDR(name)};
            }
            const text* digits = PG_GETARG_TEXT_PP(3);
            // Damaged clocks have no information.
            if (!read_state(state, record, clocks, 0, false, {}) ||
                !read_clock_vector({VARDATA_ANY(digits), VARSIZE_ANY_EXHDR(digits)}, seen) ||
                !read_clock_vector(clock_vector_of(state, ReadFields{{fields, used}}), now))
                return ClockChange{};
            return change_of_clocks(seen, now, false);
        });
    });
    if (!change.has_changed)
        PG_RETURN_NULL();
    PG_RETURN_TIMESTAMPTZ(pg::timestamptz_from_instant(change.at));
}

// input_changed_since(user_id, module, table_name, record_id, seen, linked_id, linked_seen): the
// same for a record that a mission refers to, as its user's policies show it; infinity = changed at
// an unknown time. `seen` as hexadecimal digits, null = there was no such record.
PG_FUNCTION_INFO_V1(mana_ai_input_changed_since);
PGDLLEXPORT Datum mana_ai_input_changed_since(PG_FUNCTION_ARGS) {
    using namespace mana_ai;
    for (int i = 0; i < 4; i++)
        if (PG_ARGISNULL(i))
            PG_RETURN_NULL();
    const core::Instant at = pg::entry_point([fcinfo] {
        const auto argument = [fcinfo](int n) {
            return PG_ARGISNULL(n) ? std::string() : pg::text_argument(fcinfo, n);
        };
        RecordClocks seen;
        seen.own = argument(4);
        seen.linked_id = argument(5);
        seen.linked = argument(6);
        return input_change(argument(0), argument(1), argument(2), argument(3), seen)
            .value_or(core::kOlderThanEverything);
    });
    if (at == core::kOlderThanEverything)
        PG_RETURN_NULL();
    if (at == kUnknownChange)
        PG_RETURN_TIMESTAMPTZ(DT_NOEND);
    PG_RETURN_TIMESTAMPTZ(pg::timestamptz_from_instant(at));
}

}  // extern "C"
