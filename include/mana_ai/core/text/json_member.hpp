#pragma once

#include <string_view>

#include "mana_ai/core/text/json.hpp"

namespace mana_ai::core {

// Null if there is no such member, or no object.
inline const Json* member(const Json* object, std::string_view key) {
    if (object == nullptr || !object->is_object()) {
        return nullptr;
    }
    const auto found = object->find(key);
    return found == object->end() ? nullptr : &*found;
}

inline const Json* member(const Json& object, std::string_view key) {
    return member(&object, key);
}

}  // namespace mana_ai::core
