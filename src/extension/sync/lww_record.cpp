#include "mana_ai/extension/sync/lww_record.hpp"

#include <algorithm>
#include <cstring>

#include "mana_ai/core/record/clock_table.hpp"

namespace mana_ai {

namespace {

constexpr std::string_view kDeletedAt = "deletedAt";
constexpr uint32_t kMinCapacity = 24;

core::FieldClock row_clock_of(const ChangeRow& row) {
    return {row.created_at, row.created_at,
            row.op == core::RowOp::Insert ? core::WriteRank::Insert : core::WriteRank::Change,
            row.position};
}

std::optional<core::Instant> instant_of(const pg::JsonbValueRef* value) {
    if (value == nullptr)
        return std::nullopt;
    const auto text = pg::string_of(*value);
    return text ? core::parse_instant(*text) : std::nullopt;
}

// A stamp is an ISO string or {"at": ISO string, …}.
std::optional<core::Instant> stamp_time(const pg::JsonbValueRef& stamp) {
    if (stamp.type == JENTRY_ISCONTAINER)
        return instant_of(pg::find_field(pg::read_object(stamp), "at"));
    return instant_of(&stamp);
}

// Walks through the stamps beside a walk through names in the same order.
class StampWalk {
 public:
    explicit StampWalk(const Jsonb* stamps) : stamps_(pg::read_object(stamps)) {}

    std::optional<core::Instant> at(std::string_view name) {
        while (next_ < stamps_.count) {
            const int order = pg::compare_field_names(stamps_.fields[next_].name(), name);
            if (order == 0)
                return stamp_time(stamps_.fields[next_].value);
            if (order > 0)
                break;
            next_++;
        }
        return std::nullopt;
    }

 private:
    pg::JsonbFields stamps_;
    uint32_t next_ = 0;
};

struct Writes {
    RecordField* fields;
    uint32_t count = 0;
};

// A delete writes deletedAt and nothing else.
Writes writes_of_delete(const ChangeRow& row) {
    Writes writes{static_cast<RecordField*>(palloc(sizeof(RecordField)))};
    RecordField& write = writes.fields[writes.count++];
    write = RecordField{};
    write.field.key = kDeletedAt.data();
    write.field.key_size = kDeletedAt.size();
    // Without a usable deletedAt the time is the row's; as the value its truth is enough, since no
    // deleted record is ever shown.
    write.field.value.type = JENTRY_ISBOOL_TRUE;
    write.clock = row_clock_of(row);

    const pg::JsonbValueRef* given = pg::find_field(pg::read_object(row.data), kDeletedAt);
    if (given != nullptr && pg::is_truthy(*given)) {
        write.field.value = *given;
        write.clock.time = instant_of(given).value_or(row.created_at);
    }
    if (const auto stamp = StampWalk(row.stamps).at(kDeletedAt))
        write.clock.time = *stamp;
    return writes;
}

Writes writes_of_fields(const ChangeRow& row) {
    const pg::JsonbFields data = pg::read_object(row.data);
    Writes writes{
        static_cast<RecordField*>(palloc(sizeof(RecordField) * (size_t{data.count} + 1)))};
    core::RowTimes times;
    times.op = row.op;
    times.created_at = row.created_at;
    if (row.op == core::RowOp::Insert) {
        times.updated_at_field = instant_of(pg::find_field(data, "updatedAt"));
        times.created_at_field = instant_of(pg::find_field(data, "createdAt"));
    }
    const core::Instant unstamped = core::unstamped_time(times);
    const core::FieldClock row_clock = row_clock_of(row);

    // An insert that is silent about deletedAt clears older deletes.
    bool clearing = row.op == core::RowOp::Insert && unstamped != core::kOlderThanEverything;
    auto add_clearing = [&] {
        RecordField& write = writes.fields[writes.count++];
        write = RecordField{};
        write.field.key = kDeletedAt.data();
        write.field.key_size = kDeletedAt.size();
        write.clock = core::clearing_clock(unstamped);
        write.present = false;
        clearing = false;
    };

    StampWalk stamps(row.stamps);
    for (uint32_t i = 0; i < data.count; i++) {
        const std::string_view name = data.fields[i].name();
        if (clearing) {
            const int order = pg::compare_field_names(kDeletedAt, name);
            if (order == 0)
                clearing = false;
            else if (order < 0)
                add_clearing();
        }
        if (core::is_ignored_field(name))
            continue;
        RecordField& write = writes.fields[writes.count++];
        write.field = data.fields[i];
        write.clock = row_clock;
        write.clock.time = stamps.at(name).value_or(unstamped);
        write.present = true;
    }
    if (clearing)
        add_clearing();
    return writes;
}

void reserve(RecordState& state, uint32_t count) {
    if (count <= state.capacity)
        return;
    const uint32_t capacity = std::max({kMinCapacity, count, state.capacity * 2});
    auto* fields = static_cast<RecordField*>(
        MemoryContextAllocHuge(CurrentMemoryContext, sizeof(RecordField) * size_t{capacity}));
    if (state.count > 0)
        std::memcpy(static_cast<void*>(fields), state.fields, sizeof(RecordField) * state.count);
    state.fields = fields;
    state.capacity = capacity;
}

// Merges fields that the state does not have yet (`fresh` of them) from behind, in place.
void add_fresh_fields(RecordState& state, const Writes& writes, const bool* is_fresh,
                      uint32_t fresh) {
    reserve(state, state.count + fresh);
    int64_t from = int64_t{state.count} - 1;
    int64_t to = int64_t{state.count} + fresh - 1;
    state.count += fresh;
    for (int64_t i = int64_t{writes.count} - 1; i >= 0; i--) {
        if (!is_fresh[i])
            continue;
        while (from >= 0 && pg::compare_field_names(state.fields[from].field.name(),
                                                    writes.fields[i].field.name()) > 0)
            state.fields[to--] = state.fields[from--];
        state.fields[to--] = writes.fields[i];
    }
}

bool same_value(const RecordField& x, const RecordField& y) {
    if (x.present != y.present)
        return false;
    return !x.present ||
           (x.field.value.type == y.field.value.type && x.field.value.size == y.field.value.size &&
            (x.field.value.size == 0 ||
             std::memcmp(x.field.value.bytes, y.field.value.bytes, x.field.value.size) == 0));
}

// Whether the winner of two writes is tied. `differ()` tells whether it matters which one wins.
template <class Differ>
bool is_tied_after(const core::FieldClock& write, const core::FieldClock& held,
                   core::Precedence order, Differ differ) {
    if (!core::is_tie(write, held))
        return order == core::Precedence::Older ? held.tied : write.tied;
    const bool two_rows = order == core::Precedence::Newer || order == core::Precedence::Older;
    return write.tied || held.tied || (two_rows && differ());
}

// The field after a write to it.
Applied apply_write(RecordField& held, const RecordField& write, PlaceLost rule) {
    const core::Precedence order = core::precedence(write.clock, held.clock);
    if (order == core::Precedence::Unknown && rule == PlaceLost::AskLog)
        return Applied::AskLog;
    const bool tied =
        is_tied_after(write.clock, held.clock, order, [&] { return !same_value(write, held); });
    const bool is_clearing_again =
        order == core::Precedence::Same && write.clock.rank == core::WriteRank::Clearing;
    if (order == core::Precedence::Older || is_clearing_again) {
        const bool changed = tied != held.clock.tied;
        held.clock.tied = tied;
        return changed ? Applied::Changed : Applied::Nothing;
    }
    // If it is the same write, the row is right and not a snapshot that was tampered with.
    held = write;
    held.clock.tied = tied;
    return order == core::Precedence::Same ? Applied::Nothing : Applied::Changed;
}

struct RowMark {
    core::FieldClock clock;
    bool has_space;
    std::string_view space;
};

// The last row in replay order decides about the space.
Applied apply_row_mark(RecordState& state, const RowMark& row, PlaceLost rule) {
    if (!state.exists) {
        state.exists = true;
        state.row_clock = row.clock;
        state.has_space = row.has_space;
        state.space = row.space;
        return Applied::Changed;
    }
    const core::Precedence order = core::precedence(row.clock, state.row_clock);
    if (order == core::Precedence::Unknown && rule == PlaceLost::AskLog)
        return Applied::AskLog;
    const bool tied = is_tied_after(row.clock, state.row_clock, order, [&] {
        return state.has_space != row.has_space || (row.has_space && state.space != row.space);
    });
    if (order == core::Precedence::Older) {
        const bool changed = tied != state.row_clock.tied;
        state.row_clock.tied = tied;
        return changed ? Applied::Changed : Applied::Nothing;
    }
    state.row_clock = row.clock;
    state.row_clock.tied = tied;
    state.has_space = row.has_space;
    state.space = row.space;
    return order == core::Precedence::Same ? Applied::Nothing : Applied::Changed;
}

// Adds writes in jsonb's order.
Applied apply_writes(RecordState& state, const Writes& writes, PlaceLost rule) {
    bool changed = false;
    auto* is_fresh = static_cast<bool*>(palloc0(writes.count + 1));
    uint32_t fresh = 0;
    uint32_t at = 0;
    for (uint32_t i = 0; i < writes.count; i++) {
        const RecordField& write = writes.fields[i];
        int order = 1;
        while (at < state.count && (order = pg::compare_field_names(state.fields[at].field.name(),
                                                                    write.field.name())) < 0)
            at++;
        if (at == state.count || order != 0) {
            is_fresh[i] = true;
            fresh++;
            continue;
        }
        const Applied applied = apply_write(state.fields[at], write, rule);
        if (applied == Applied::AskLog)
            return Applied::AskLog;
        changed |= applied == Applied::Changed;
    }
    if (fresh > 0)
        add_fresh_fields(state, writes, is_fresh, fresh);
    return changed || fresh > 0 ? Applied::Changed : Applied::Nothing;
}

}  // namespace

Applied apply_row(RecordState& state, const ChangeRow& row, PlaceLost rule) {
    const Writes writes =
        row.op == core::RowOp::Delete ? writes_of_delete(row) : writes_of_fields(row);
    const Applied mark = apply_row_mark(state, {row_clock_of(row), row.has_space, row.space}, rule);
    if (mark == Applied::AskLog)
        return Applied::AskLog;
    const Applied fields = apply_writes(state, writes, rule);
    return fields == Applied::Nothing ? mark : fields;
}

void add_state(RecordState& state, const RecordState& rows) {
    if (!rows.exists)
        return;
    apply_row_mark(state, {rows.row_clock, rows.has_space, rows.space}, PlaceLost::RowWins);
    apply_writes(state, {rows.fields, rows.count}, PlaceLost::RowWins);
}

RecordState copy_of(const RecordState& state) {
    RecordState copy = state;
    copy.fields = nullptr;
    copy.count = 0;
    copy.capacity = 0;
    reserve(copy, state.count);
    if (state.count > 0)
        std::memcpy(static_cast<void*>(copy.fields), state.fields,
                    sizeof(RecordField) * state.count);
    copy.count = state.count;
    return copy;
}

RecordState deleted_state(core::Instant deleted_at) {
    RecordState state;
    reserve(state, 1);
    RecordField& field = state.fields[state.count++];
    field = RecordField{};
    field.field.key = kDeletedAt.data();
    field.field.key_size = kDeletedAt.size();
    field.field.value.type = JENTRY_ISBOOL_TRUE;
    field.clock = core::clearing_clock(deleted_at);
    state.exists = true;
    return state;
}

RecordState state_without_clocks(const Jsonb* record, bool has_space, std::string_view space) {
    const pg::JsonbFields record_fields = pg::read_object(record);
    RecordState state;
    reserve(state, record_fields.count);
    for (uint32_t i = 0; i < record_fields.count; i++) {
        if (record_fields.fields[i].name() == "id")
            continue;
        RecordField& field = state.fields[state.count++];
        field = RecordField{};
        field.field = record_fields.fields[i];
    }
    state.exists = true;
    state.has_space = has_space;
    state.space = space;
    return state;
}

const pg::JsonbValueRef* find_value(const RecordState& state, std::string_view name) {
    uint32_t low = 0;
    uint32_t high = state.count;
    while (low < high) {
        const uint32_t middle = low + (high - low) / 2;
        const RecordField& candidate = state.fields[middle];
        const int order = pg::compare_field_names(candidate.field.name(), name);
        if (order == 0)
            return candidate.present ? &candidate.field.value : nullptr;
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return nullptr;
}

bool is_deleted(const RecordState& state) {
    const pg::JsonbValueRef* value = find_value(state, kDeletedAt);
    return value != nullptr && pg::is_truthy(*value);
}

bool may_revive(const ChangeRow& row) {
    if (row.op == core::RowOp::Delete)
        return false;
    return row.op == core::RowOp::Insert ||
           pg::find_field(pg::read_object(row.data), kDeletedAt) != nullptr;
}

core::Instant deletion_time(const RecordState& state) {
    for (uint32_t i = 0; i < state.count; i++)
        if (state.fields[i].field.name() == kDeletedAt)
            return state.fields[i].clock.time;
    return state.row_clock.row_time;
}

bool fits_into_jsonb(const RecordState& state) {
    // Leaves room for "id" and all alignment.
    uint64_t total = 64 * 1024;
    for (uint32_t i = 0; i < state.count; i++)
        total += uint64_t{state.fields[i].field.key_size} + state.fields[i].field.value.size +
                 2 * sizeof(JEntry) + sizeof(int32);
    return total < JENTRY_OFFLENMASK;
}

Jsonb* record_of(const RecordState& state, std::string_view record_id) {
    auto* fields = static_cast<pg::JsonbFieldRef*>(
        palloc(sizeof(pg::JsonbFieldRef) * (size_t{state.count} + 1)));
    uint32_t count = 0;
    bool id_done = false;
    auto add_id = [&] {
        fields[count++] = {"id", 2, pg::string_value(record_id)};
        id_done = true;
    };
    for (uint32_t i = 0; i < state.count; i++) {
        if (!state.fields[i].present)
            continue;
        if (!id_done && pg::compare_field_names("id", state.fields[i].field.name()) < 0)
            add_id();
        fields[count++] = state.fields[i].field;
    }
    if (!id_done)
        add_id();
    return pg::build_object(fields, count);
}

bytea* clocks_of(const RecordState& state, uint32_t generation) {
    auto* clocks = static_cast<core::FieldClock*>(
        palloc(sizeof(core::FieldClock) * (size_t{state.count} + 1)));
    uint32_t count = 0;
    const core::FieldClock* cleared = nullptr;
    for (uint32_t i = 0; i < state.count; i++) {
        if (state.fields[i].present)
            clocks[count++] = state.fields[i].clock;
        else
            cleared = &state.fields[i].clock;
    }
    if (cleared != nullptr)
        clocks[count++] = *cleared;
    clocks[count++] = state.row_clock;

    auto* result = static_cast<bytea*>(palloc(VARHDRSZ + core::clock_table_bound(count)));
    const size_t size =
        core::encode_clock_table(clocks, count, cleared != nullptr, generation, VARDATA(result));
    SET_VARSIZE(result, VARHDRSZ + size);
    return result;
}

bool read_state(RecordState& state, const Jsonb* record, const bytea* clocks, uint32_t generation,
                bool has_space, std::string_view space) {
    const core::ClockTableReader reader(
        std::string_view(VARDATA_ANY(clocks), VARSIZE_ANY_EXHDR(clocks)), generation);
    const pg::JsonbFields record_fields = pg::read_object(record);
    const uint32_t cleared = reader.has_cleared_deletion() ? 1 : 0;
    // "id" has no clock; the row's clock belongs to no field.
    if (!reader.valid() || record_fields.count == 0 ||
        reader.size() != record_fields.count - 1 + cleared + 1)
        return false;

    state = RecordState{};
    reserve(state, record_fields.count + cleared);
    bool cleared_done = cleared == 0;
    auto add_cleared = [&] {
        RecordField& field = state.fields[state.count++];
        field = RecordField{};
        field.field.key = kDeletedAt.data();
        field.field.key_size = kDeletedAt.size();
        field.clock = reader.at(reader.size() - 2);
        field.present = false;
        cleared_done = true;
    };
    uint32_t next_clock = 0;
    for (uint32_t i = 0; i < record_fields.count; i++) {
        const std::string_view name = record_fields.fields[i].name();
        if (name == "id")
            continue;
        if (!cleared_done && pg::compare_field_names(kDeletedAt, name) < 0)
            add_cleared();
        if (next_clock >= record_fields.count - 1)
            return false;
        RecordField& field = state.fields[state.count++];
        field.field = record_fields.fields[i];
        field.clock = reader.at(next_clock++);
        field.present = true;
    }
    if (next_clock != record_fields.count - 1)
        return false;
    if (!cleared_done)
        add_cleared();
    state.row_clock = reader.at(reader.size() - 1);
    state.exists = true;
    state.has_space = has_space;
    state.space = space;
    return true;
}

bool same_content(const RecordState& a, const RecordState& b) {
    auto same_clock = [](const core::FieldClock& x, const core::FieldClock& y) {
        return x.time == y.time && x.row_time == y.row_time && x.rank == y.rank && x.tied == y.tied;
    };
    if (a.exists != b.exists || a.count != b.count || a.has_space != b.has_space ||
        (a.has_space && a.space != b.space) || !same_clock(a.row_clock, b.row_clock))
        return false;
    for (uint32_t i = 0; i < a.count; i++) {
        const RecordField& x = a.fields[i];
        const RecordField& y = b.fields[i];
        if (x.field.name() != y.field.name() || !same_clock(x.clock, y.clock) || !same_value(x, y))
            return false;
    }
    return true;
}

}  // namespace mana_ai
