#include "mana_ai/extension/sync/lost_iterations.hpp"

#include <algorithm>
#include <cstring>
#include <optional>
#include <string_view>

#include "mana_ai/core/record/iteration_progress.hpp"

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

// The members that matter of one level of a value. Freed at once: an insert may have any number of
// iterations and steps.
struct Members {
    std::optional<std::string_view> id, status, source, feedback;
    std::optional<pg::JsonbValueRef> plan;
};

Members members_of(const pg::JsonbValueRef& value) {
    const pg::JsonbFields fields = pg::read_object(value);
    Members members;
    members.id = member(fields, "id");
    members.status = member(fields, "status");
    members.source = member(fields, "source");
    members.feedback = member(fields, "userFeedback");
    if (const pg::JsonbValueRef* plan = pg::find_field(fields, "plan"))
        members.plan = *plan;
    if (fields.fields != nullptr)
        pfree(fields.fields);
    return members;
}

bool is_open(const Members& step) {
    return core::is_open_step(step.status.value_or(""));
}

// Whether a step of `before` that was dealt with is open in `now`.
bool reopens_steps(const pg::JsonbValueRef& now, const pg::JsonbValueRef& before) {
    if (same_bytes(now, before))
        return false;
    const pg::JsonbValues steps = pg::read_array(now);
    const pg::JsonbValues earlier = pg::read_array(before);
    bool reopened = false;
    for (uint32_t i = 0; i < std::min(steps.count, earlier.count) && !reopened; i++) {
        if (same_bytes(steps.values[i], earlier.values[i]))
            continue;
        const Members step = members_of(steps.values[i]);
        reopened = is_open(step) && step.id && pg::is_object(earlier.values[i]);
        if (reopened) {
            const Members other = members_of(earlier.values[i]);
            reopened = other.id == step.id && !is_open(other);
        }
    }
    if (steps.values != nullptr)
        pfree(steps.values);
    if (earlier.values != nullptr)
        pfree(earlier.values);
    return reopened;
}

bool is_behind(const pg::JsonbValueRef& now, const Members& before) {
    const Members members = members_of(now);
    if (members.feedback.value_or("").empty() && !before.feedback.value_or("").empty())
        return true;
    return members.plan && before.plan && reopens_steps(*members.plan, *before.plan);
}

struct Entry {
    std::string_view id;
    const pg::JsonbValueRef* value;
    bool is_compared = false;  // once, however often a client has written the id
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
        if (const auto id = members_of(left.values[i]).id)
            entries[count++] = {*id, &left.values[i]};
    auto by_id = [](const Entry& a, const Entry& b) { return a.id < b.id; };
    std::sort(entries, entries + count, by_id);
    for (uint32_t i = 0; i < held.count; i++) {
        const Members members = members_of(held.values[i]);
        if (!members.id || members.source != "server")
            continue;
        Entry* found =
            std::lower_bound(entries, entries + count, Entry{*members.id, nullptr}, by_id);
        if (found == entries + count || found->id != *members.id)
            return true;
        if (!found->is_compared && !same_bytes(*found->value, held.values[i]) &&
            is_behind(*found->value, members))
            return true;
        found->is_compared = true;
    }
    return false;
}

}  // namespace mana_ai
