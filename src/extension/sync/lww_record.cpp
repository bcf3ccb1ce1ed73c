#include "mana_ai/extension/sync/lww_record.hpp"

#include <algorithm>
#include <cstring>

#include "mana_ai/core/record/clock_table.hpp"
#include "mana_ai/extension/sync/clock_vector.hpp"

extern "C" {
#include "port/pg_crc32c.h"
}

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

// Traverses the stamps in parallel with names in the same order.
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
    uint32_t paths = 0;
};

// A delete writes only deletedAt.
Writes writes_of_delete(const ChangeRow& row) {
    Writes writes{static_cast<RecordField*>(palloc(sizeof(RecordField)))};
    RecordField& write = writes.fields[writes.count++];
    write = RecordField{};
    write.field.key = kDeletedAt.data();
    write.field.key_size = kDeletedAt.size();
    // Without a usable deletedAt the time is the row's; the value `true` is enough, since deleted
    // records are never shown.
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

    // An insert without deletedAt clears older deletes.
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
        writes.paths += core::is_path(name) ? 1 : 0;
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

// Merges fields that the state does not have yet (`fresh` of them) from the end, in place.
void add_fresh_fields(RecordState& state, const Writes& writes, const bool* is_fresh,
                      uint32_t fresh) {
    reserve(state, state.count + fresh);
    int64_t from = int64_t{state.count} - 1;
    int64_t to = int64_t{state.count} + fresh - 1;
    state.count += fresh;
    if (writes.paths > 0)
        for (uint32_t i = 0; i < writes.count; i++)
            state.paths += is_fresh[i] && core::is_path(writes.fields[i].field.name()) ? 1 : 0;
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

// Whether the winner of two writes is tied. `differ()` says whether it matters which one wins.
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
    // If it is the same write, the row is correct, and not a snapshot that was tampered with.
    held = write;
    held.clock.tied = tied;
    return order == core::Precedence::Same ? Applied::Nothing : Applied::Changed;
}

struct RowMark {
    core::FieldClock clock;
    bool has_space;
    std::string_view space;
};

// The last row in replay order decides the space.
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

const RecordField* find_write(const RecordField* fields, uint32_t count, std::string_view name) {
    uint32_t low = 0;
    uint32_t high = count;
    while (low < high) {
        const uint32_t middle = low + (high - low) / 2;
        const int order = pg::compare_field_names(fields[middle].field.name(), name);
        if (order == 0)
            return &fields[middle];
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return nullptr;
}

// Whether one of the writes is newer and to a field that the path leads into or through.
bool is_overwritten(const RecordField& path, const RecordField* fields, uint32_t count) {
    const std::string_view name = path.field.name();
    for (size_t dot = name.find('.'); dot != std::string_view::npos;
         dot = name.find('.', dot + 1)) {
        const RecordField* whole = find_write(fields, count, name.substr(0, dot));
        if (whole != nullptr && core::is_overwritten(path.clock, whole->clock))
            return true;
    }
    return false;
}

void drop_overwritten_paths(RecordState& state) {
    if (state.paths == 0)
        return;
    auto* is_dropped = static_cast<bool*>(palloc(state.count));
    for (uint32_t i = 0; i < state.count; i++)
        is_dropped[i] = core::is_path(state.fields[i].field.name()) &&
                        is_overwritten(state.fields[i], state.fields, state.count);
    uint32_t kept = 0;
    for (uint32_t i = 0; i < state.count; i++) {
        if (is_dropped[i])
            state.paths--;
        else
            state.fields[kept++] = state.fields[i];
    }
    state.count = kept;
    pfree(is_dropped);
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
            if (writes.paths > 0 && core::is_path(write.field.name()) &&
                (is_overwritten(write, state.fields, state.count) ||
                 is_overwritten(write, writes.fields, writes.count)))
                continue;
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
    if (!changed && fresh == 0)
        return Applied::Nothing;
    drop_overwritten_paths(state);
    return Applied::Changed;
}

// In the order of their parts, so that paths with the same beginning are adjacent and shorter ones
// come first.
bool is_path_before(const RecordField* x, const RecordField* y) {
    const std::string_view a = x->field.name();
    const std::string_view b = y->field.name();
    const auto [in_a, in_b] = std::mismatch(a.begin(), a.end(), b.begin(), b.end());
    if (in_a == a.end() || in_b == b.end())
        return in_a == a.end() && in_b != b.end();
    if (*in_a == '.' || *in_b == '.')
        return *in_a == '.';
    return static_cast<unsigned char>(*in_a) < static_cast<unsigned char>(*in_b);
}

struct Paths {
    const RecordField* const* first;
    const RecordField* const* end;
    // All begin with the same name of this length, which a dot follows.
    size_t depth;
};

// A member or element that paths lead to.
struct ChangedPart {
    std::string_view name;
    const pg::JsonbValueRef* written = nullptr;  // as a whole, by a path that ends here
    Paths deeper{};
};

// Removes the paths that share their next part from the front.
ChangedPart next_part(Paths& paths) {
    const std::string_view name = (*paths.first)->field.name().substr(paths.depth + 1);
    ChangedPart part{.name = core::head_of(name)};
    const size_t depth = paths.depth + 1 + part.name.size();
    if (name.size() == part.name.size())
        part.written = &(*paths.first++)->field.value;
    part.deeper = {paths.first, paths.first, depth};
    auto leads_through = [&](std::string_view path) {
        return path.size() > depth && path[depth] == '.' &&
               path.substr(paths.depth + 1, part.name.size()) == part.name;
    };
    while (paths.first != paths.end && leads_through((*paths.first)->field.name()))
        paths.first++;
    part.deeper.end = paths.first;
    return part;
}

// A value, and the container that was made for it, if any. The outer container copies it; `made` is
// then freed, otherwise a large value at the end of a path would stay once for each part of the
// path.
struct NewValue {
    pg::JsonbValueRef value;
    Jsonb* made = nullptr;
};

NewValue new_value(Jsonb* made) {
    return {pg::value_of(made), made};
}

NewValue value_with(const pg::JsonbValueRef* whole, Paths paths);

NewValue value_of_part(const ChangedPart& part, const pg::JsonbValueRef* before) {
    const pg::JsonbValueRef* value = part.written != nullptr ? part.written : before;
    return part.deeper.first == part.deeper.end ? NewValue{*value} : value_with(value, part.deeper);
}

// The containers made for the values of one container.
class MadeParts {
 public:
    explicit MadeParts(size_t most) : made_(static_cast<Jsonb**>(palloc(sizeof(Jsonb*) * most))) {}

    pg::JsonbValueRef take(const NewValue& part) {
        if (part.made != nullptr)
            made_[count_++] = part.made;
        return part.value;
    }

    void free_all() {
        for (size_t i = 0; i < count_; i++)
            pfree(made_[i]);
        pfree(made_);
    }

 private:
    Jsonb** made_;
    size_t count_ = 0;
};

// The index that the name means in JavaScript; `count` if it is not one of the array's.
uint32_t index_of(std::string_view name, uint32_t count) {
    if (name.empty() || name.size() > 9 || (name.size() > 1 && name[0] == '0'))
        return count;
    uint32_t index = 0;
    for (const char digit : name) {
        if (digit < '0' || digit > '9')
            return count;
        index = index * 10 + static_cast<uint32_t>(digit - '0');
    }
    return std::min(index, count);
}

NewValue array_with(const pg::JsonbValueRef& whole, Paths paths) {
    const pg::JsonbValues elements = pg::read_array(whole);
    MadeParts made(static_cast<size_t>(paths.end - paths.first));
    while (paths.first != paths.end) {
        const ChangedPart part = next_part(paths);
        const uint32_t index = index_of(part.name, elements.count);
        if (index < elements.count)
            elements.values[index] = made.take(value_of_part(part, &elements.values[index]));
    }
    const NewValue result = new_value(pg::build_array(elements.values, elements.count));
    made.free_all();
    if (elements.values != nullptr)
        pfree(elements.values);
    return result;
}

NewValue object_with(const pg::JsonbFields& members, Paths paths) {
    const auto path_count = static_cast<size_t>(paths.end - paths.first);
    auto* parts = static_cast<ChangedPart*>(palloc(sizeof(ChangedPart) * path_count));
    size_t part_count = 0;
    while (paths.first != paths.end)
        parts[part_count++] = next_part(paths);
    std::sort(parts, parts + part_count, [](const ChangedPart& a, const ChangedPart& b) {
        return pg::compare_field_names(a.name, b.name) < 0;
    });

    auto* fields = static_cast<pg::JsonbFieldRef*>(
        palloc(sizeof(pg::JsonbFieldRef) * (members.count + part_count)));
    MadeParts made(part_count);
    uint32_t count = 0;
    uint32_t at = 0;
    for (const ChangedPart* part = parts; part != parts + part_count; part++) {
        int order = 1;
        while (at < members.count &&
               (order = pg::compare_field_names(members.fields[at].name(), part->name)) < 0)
            fields[count++] = members.fields[at++];
        const pg::JsonbValueRef* before =
            at < members.count && order == 0 ? &members.fields[at++].value : nullptr;
        const pg::JsonbValueRef value = made.take(value_of_part(*part, before));
        // Null in a path removes the key.
        if (value.type != JENTRY_ISNULL)
            fields[count++] = {part->name.data(), static_cast<uint32_t>(part->name.size()), value};
    }
    while (at < members.count)
        fields[count++] = members.fields[at++];
    const NewValue result = new_value(pg::build_object(fields, count));
    made.free_all();
    pfree(fields);
    pfree(parts);
    if (members.fields != nullptr)
        pfree(members.fields);
    return result;
}

// The value after all writes to its parts, as a device makes it: a missing or empty value becomes
// an object, and a text, a number or true has no parts. `whole` may be nullptr.
NewValue value_with(const pg::JsonbValueRef* whole, Paths paths) {
    if (whole == nullptr || !pg::is_truthy(*whole))
        return object_with({}, paths);
    if (whole->type != JENTRY_ISCONTAINER)
        return {*whole};
    const auto* container = reinterpret_cast<const JsonbContainer*>(whole->bytes);
    if ((container->header & JB_FARRAY) != 0)
        return array_with(*whole, paths);
    return object_with(pg::read_object(*whole), paths);
}

// The writes that the shown record does not contain: paths, and the values that they lead into.
Jsonb* hidden_writes(const RecordState& state) {
    auto* is_hidden = static_cast<bool*>(palloc0(state.count));
    for (uint32_t i = 0; i < state.count; i++) {
        const std::string_view name = state.fields[i].field.name();
        if (!core::is_path(name))
            continue;
        is_hidden[i] = true;
        if (const RecordField* head = find_write(state.fields, state.count, core::head_of(name)))
            is_hidden[head - state.fields] = true;
    }
    auto* fields = static_cast<pg::JsonbFieldRef*>(palloc(sizeof(pg::JsonbFieldRef) * state.count));
    uint32_t count = 0;
    for (uint32_t i = 0; i < state.count; i++)
        if (is_hidden[i])
            fields[count++] = state.fields[i].field;
    Jsonb* hidden = pg::build_object(fields, count);
    pfree(fields);
    pfree(is_hidden);
    return hidden;
}

// After the clocks: a checksum, and the jsonb without its length. The checksum prevents invalid
// bytes from being read as jsonb.
struct HiddenWrites {
    pg::JsonbFields fields;
    bool valid = true;
};

pg_crc32c checksum_of(const char* bytes, size_t size) {
    pg_crc32c checksum;
    INIT_CRC32C(checksum);
    COMP_CRC32C(checksum, bytes, size);
    FIN_CRC32C(checksum);
    return checksum;
}

// The checksum takes the place of the length.
static_assert(sizeof(pg_crc32c) == VARHDRSZ);

std::string_view packed(Jsonb* hidden) {
    const size_t size = VARSIZE(hidden) - VARHDRSZ;
    const pg_crc32c checksum = checksum_of(VARDATA(hidden), size);
    std::memcpy(static_cast<void*>(hidden), &checksum, sizeof checksum);
    return {reinterpret_cast<const char*>(hidden), sizeof checksum + size};
}

HiddenWrites unpacked(std::string_view bytes) {
    if (bytes.empty())
        return {};
    pg_crc32c checksum;
    if (bytes.size() <= sizeof checksum)
        return {{}, false};
    std::memcpy(&checksum, bytes.data(), sizeof checksum);
    bytes.remove_prefix(sizeof checksum);
    if (checksum != checksum_of(bytes.data(), bytes.size()))
        return {{}, false};
    auto* hidden = static_cast<Jsonb*>(palloc(VARHDRSZ + bytes.size()));
    SET_VARSIZE(hidden, VARHDRSZ + bytes.size());
    std::memcpy(VARDATA(hidden), bytes.data(), bytes.size());
    return {pg::read_object(hidden), true};
}

// The fields of the record, with the hidden writes in place of the shown values.
pg::JsonbFields written_fields(const pg::JsonbFields& shown, const pg::JsonbFields& hidden) {
    if (hidden.count == 0)
        return shown;
    auto* is_hidden = static_cast<bool*>(palloc0(size_t{shown.count} + 1));
    for (uint32_t i = 0; i < hidden.count; i++) {
        const std::string_view head = core::head_of(hidden.fields[i].name());
        const auto* place = std::lower_bound(
            shown.fields, shown.fields + shown.count, head, [](const auto& field, auto name) {
                return pg::compare_field_names(field.name(), name) < 0;
            });
        if (place != shown.fields + shown.count && place->name() == head)
            is_hidden[place - shown.fields] = true;
    }
    pg::JsonbFields written;
    written.fields = static_cast<pg::JsonbFieldRef*>(
        palloc(sizeof(pg::JsonbFieldRef) * (size_t{shown.count} + hidden.count)));
    uint32_t at = 0;
    for (uint32_t i = 0; i < shown.count; i++) {
        const std::string_view name = shown.fields[i].name();
        while (at < hidden.count && pg::compare_field_names(hidden.fields[at].name(), name) < 0)
            written.fields[written.count++] = hidden.fields[at++];
        if (!is_hidden[i])
            written.fields[written.count++] = shown.fields[i];
    }
    while (at < hidden.count)
        written.fields[written.count++] = hidden.fields[at++];
    return written;
}

// The state of a record that was stored when paths were still shown as fields.
void take_old_form(RecordState& state) {
    uint32_t kept = 0;
    for (uint32_t i = 0; i < state.count; i++) {
        const std::string_view name = state.fields[i].field.name();
        if (core::is_path(name) && core::is_ignored_field(name))
            state.paths--;
        else
            state.fields[kept++] = state.fields[i];
    }
    state.count = kept;
    state.is_old_form = true;
    drop_overwritten_paths(state);
}

void drop_writes_outside(const ClockBounds& bounds, Writes& writes) {
    uint32_t kept = 0;
    writes.paths = 0;
    for (uint32_t i = 0; i < writes.count; i++) {
        const std::string_view name = writes.fields[i].field.name();
        if (!is_within(bounds, name, writes.fields[i].clock))
            continue;
        writes.paths += core::is_path(name) ? 1 : 0;
        writes.fields[kept++] = writes.fields[i];
    }
    writes.count = kept;
}

}  // namespace

Applied apply_row(RecordState& state, const ChangeRow& row, PlaceLost rule,
                  const ClockBounds* bounds) {
    Writes writes = row.op == core::RowOp::Delete ? writes_of_delete(row) : writes_of_fields(row);
    if (bounds != nullptr)
        drop_writes_outside(*bounds, writes);
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
    apply_writes(state, {rows.fields, rows.count, rows.paths}, PlaceLost::RowWins);
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

RecordState owned_copy_of(const RecordState& state) {
    RecordState copy = copy_of(state);
    auto* fields = static_cast<pg::JsonbFieldRef*>(
        palloc(sizeof(pg::JsonbFieldRef) * (size_t{state.count} + 1)));
    for (uint32_t i = 0; i < state.count; i++)
        fields[i] = state.fields[i].field;
    const pg::JsonbFields own = pg::read_object(pg::build_object(fields, state.count));
    for (uint32_t i = 0; i < own.count; i++)
        copy.fields[i].field = own.fields[i];
    pfree(fields);
    if (own.fields != nullptr)
        pfree(own.fields);
    copy.space =
        std::string_view(pnstrdup(state.space.data(), state.space.size()), state.space.size());
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
        state.paths += core::is_path(field.field.name()) ? 1 : 0;
    }
    if (state.paths > 0)
        take_old_form(state);
    state.exists = true;
    state.has_space = has_space;
    state.space = space;
    return state;
}

RecordState shown_state(const RecordState& state) {
    if (state.paths == 0)
        return state;
    auto** paths =
        static_cast<const RecordField**>(palloc(sizeof(RecordField*) * size_t{state.paths}));
    uint32_t path_count = 0;
    RecordState shown = state;
    shown.fields = static_cast<RecordField*>(palloc(sizeof(RecordField) * size_t{state.count}));
    shown.count = 0;
    shown.capacity = state.count;
    shown.paths = 0;
    for (uint32_t i = 0; i < state.count; i++) {
        if (core::is_path(state.fields[i].field.name()))
            paths[path_count++] = &state.fields[i];
        else
            shown.fields[shown.count++] = state.fields[i];
    }
    std::sort(paths, paths + path_count, is_path_before);

    const uint32_t whole_count = shown.count;
    for (uint32_t first = 0; first < path_count;) {
        const std::string_view head = core::head_of(paths[first]->field.name());
        core::Instant newest = core::kOlderThanEverything;
        uint32_t end = first;
        for (; end < path_count && core::head_of(paths[end]->field.name()) == head; end++)
            newest = std::max(newest, paths[end]->clock.time);
        const RecordField* whole = find_write(shown.fields, whole_count, head);
        const pg::JsonbValueRef value = value_with(whole == nullptr ? nullptr : &whole->field.value,
                                                   {paths + first, paths + end, head.size()})
                                            .value;
        RecordField& field =
            whole == nullptr ? shown.fields[shown.count++] : shown.fields[whole - shown.fields];
        if (whole == nullptr) {
            field = *paths[first];
            field.field.key_size = static_cast<uint32_t>(head.size());
        }
        field.field.value = value;
        field.clock.time = std::max(field.clock.time, newest);
        first = end;
    }
    std::sort(shown.fields, shown.fields + shown.count,
              [](const RecordField& a, const RecordField& b) {
                  return pg::compare_field_names(a.field.name(), b.field.name()) < 0;
              });
    return shown;
}

const pg::JsonbValueRef* find_value(const RecordState& shown, std::string_view name) {
    const RecordField* field = find_write(shown.fields, shown.count, name);
    return field != nullptr && field->present ? &field->field.value : nullptr;
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
    // Includes room for "id" and all alignment.
    uint64_t total = 64 * 1024;
    for (uint32_t i = 0; i < state.count; i++)
        total += uint64_t{state.fields[i].field.key_size} + state.fields[i].field.value.size +
                 2 * sizeof(JEntry) + sizeof(int32);
    // Every part of a path may become a separate object.
    total += uint64_t{state.paths} * core::kMaxPathParts * (3 * sizeof(JEntry) + sizeof(int32));
    return total < JENTRY_OFFLENMASK;
}

Jsonb* record_of(const RecordState& shown, std::string_view record_id) {
    auto* fields = static_cast<pg::JsonbFieldRef*>(
        palloc(sizeof(pg::JsonbFieldRef) * (size_t{shown.count} + 1)));
    uint32_t count = 0;
    bool id_done = false;
    auto add_id = [&] {
        fields[count++] = {"id", 2, pg::string_value(record_id)};
        id_done = true;
    };
    for (uint32_t i = 0; i < shown.count; i++) {
        if (!shown.fields[i].present)
            continue;
        if (!id_done && pg::compare_field_names("id", shown.fields[i].field.name()) < 0)
            add_id();
        fields[count++] = shown.fields[i].field;
    }
    if (!id_done)
        add_id();
    Jsonb* record = pg::build_object(fields, count);
    pfree(fields);
    return record;
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

    const std::string_view rest =
        state.paths > 0 ? packed(hidden_writes(state)) : std::string_view();
    auto* result =
        static_cast<bytea*>(palloc(VARHDRSZ + core::clock_table_bound(count) + rest.size()));
    const size_t size = core::encode_clock_table(clocks, count, cleared != nullptr, generation,
                                                 VARDATA(result), rest);
    SET_VARSIZE(result, VARHDRSZ + size);
    if (!rest.empty())
        pfree(const_cast<char*>(rest.data()));
    pfree(clocks);
    return result;
}

bool read_state(RecordState& state, const Jsonb* record, const bytea* clocks, uint32_t generation,
                bool has_space, std::string_view space) {
    const core::ClockTableReader reader(
        std::string_view(VARDATA_ANY(clocks), VARSIZE_ANY_EXHDR(clocks)), generation);
    const HiddenWrites hidden = unpacked(reader.rest());
    const pg::JsonbFields record_fields = written_fields(pg::read_object(record), hidden.fields);
    const uint32_t cleared = reader.has_cleared_deletion() ? 1 : 0;
    // "id" has no clock; the row's clock belongs to no field.
    if (!reader.valid() || !hidden.valid || record_fields.count == 0 ||
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
        state.paths += core::is_path(name) ? 1 : 0;
    }
    if (next_clock != record_fields.count - 1)
        return false;
    if (!cleared_done)
        add_cleared();
    if (state.paths > 0 && hidden.fields.count == 0)
        take_old_form(state);
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
