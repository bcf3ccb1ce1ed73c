#include "mana_ai/extension/sync/lost_iterations.hpp"

#include <algorithm>
#include <cstring>

namespace mana_ai {

namespace {

std::optional<std::string_view> member(const pg::JsonbFields& members, std::string_view name) {
    const pg::JsonbValueRef* value = pg::find_field(members, name);
    return value == nullptr ? std::nullopt : pg::string_of(*value);
}

bool same_bytes(const pg::JsonbValueRef& a, const pg::JsonbValueRef& b) {
    return a.type == b.type && a.size == b.size &&
           (a.bytes == b.bytes || std::memcmp(a.bytes, b.bytes, a.size) == 0);
}

// How far devices have got with an iteration.
struct Progress {
    uint32_t steps = 0;  // that are not planned any more
    bool has_feedback = false;
};

Progress progress_of(const pg::JsonbFields& iteration) {
    Progress progress;
    const pg::JsonbValueRef* plan = pg::find_field(iteration, "plan");
    const pg::JsonbValues steps = plan == nullptr ? pg::JsonbValues{} : pg::read_array(*plan);
    for (uint32_t i = 0; i < steps.count; i++)
        if (member(pg::read_object(steps.values[i]), "status") != "planned")
            progress.steps++;
    progress.has_feedback = !member(iteration, "userFeedback").value_or("").empty();
    return progress;
}

bool is_behind(const Progress& a, const Progress& b) {
    return a.steps < b.steps || (!a.has_feedback && b.has_feedback);
}

struct Entry {
    std::string_view id;
    const pg::JsonbValueRef* value;
};

}  // namespace

bool has_less_of_server_iterations(const pg::JsonbValueRef* now, const pg::JsonbValueRef& before) {
    if (now != nullptr && same_bytes(*now, before))
        return false;
    const pg::JsonbValues held = pg::read_array(before);
    if (held.count == 0)
        return false;
    const pg::JsonbValues left = now == nullptr ? pg::JsonbValues{} : pg::read_array(*now);
    auto* entries = static_cast<Entry*>(palloc(sizeof(Entry) * (size_t{left.count} + 1)));
    uint32_t count = 0;
    for (uint32_t i = 0; i < left.count; i++)
        if (const auto id = member(pg::read_object(left.values[i]), "id"))
            entries[count++] = {*id, &left.values[i]};
    auto before_in_order = [](const Entry& a, const Entry& b) { return a.id < b.id; };
    std::sort(entries, entries + count, before_in_order);
    for (uint32_t i = 0; i < held.count; i++) {
        const pg::JsonbFields members = pg::read_object(held.values[i]);
        const auto id = member(members, "id");
        if (!id || member(members, "source") != "server")
            continue;
        const Entry* found =
            std::lower_bound(entries, entries + count, Entry{*id, nullptr}, before_in_order);
        if (found == entries + count || found->id != *id)
            return true;
        if (!same_bytes(*found->value, held.values[i]) &&
            is_behind(progress_of(pg::read_object(*found->value)), progress_of(members)))
            return true;
    }
    return false;
}

}  // namespace mana_ai
