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

}  // namespace

bool lacks_server_iterations(const pg::JsonbValueRef* now, const pg::JsonbValueRef& before) {
    if (now != nullptr && same_bytes(*now, before))
        return false;
    const pg::JsonbValues held = pg::read_array(before);
    if (held.count == 0)
        return false;
    const pg::JsonbValues left = now == nullptr ? pg::JsonbValues{} : pg::read_array(*now);
    auto* ids =
        static_cast<std::string_view*>(palloc(sizeof(std::string_view) * (size_t{left.count} + 1)));
    uint32_t count = 0;
    for (uint32_t i = 0; i < left.count; i++)
        if (const auto id = member(pg::read_object(left.values[i]), "id"))
            ids[count++] = *id;
    std::sort(ids, ids + count);
    for (uint32_t i = 0; i < held.count; i++) {
        const pg::JsonbFields members = pg::read_object(held.values[i]);
        const auto id = member(members, "id");
        if (id && member(members, "source") == "server" &&
            !std::binary_search(ids, ids + count, *id))
            return true;
    }
    return false;
}

}  // namespace mana_ai
