// JSON from clients and services: parsed without exceptions, and always written as valid UTF-8.
#pragma once

#include <cstddef>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>

namespace mana_ai::core {

using Json = nlohmann::json;

// Deeper documents are refused: writing one out again recurses once per level.
inline constexpr std::size_t kMaxJsonDepth = 200;

// Parses one JSON document. Any bytes may be given; nothing is thrown. nullopt: not JSON, not valid
// UTF-8, nested deeper than kMaxJsonDepth, or out of memory.
std::optional<Json> parse_json(std::string_view text) noexcept;

// Compact JSON text. Invalid UTF-8 inside strings becomes U+FFFD instead of an exception.
std::string dump_json(const Json& value);

// The text as a JSON string, with quotes. An invalid byte becomes U+FFFD. Made in one buffer of the
// right size, so that no copy of a secret text remains elsewhere.
std::string json_string(std::string_view text);

// Removes U+0000 from all strings and object keys, since neither text nor jsonb can hold it.
void remove_nul(Json& value);

// The string member `key` of an object; the fallback if the value is not an object, has no such
// member or one of another type. The view lives as long as `object` (or the fallback).
std::string_view string_or(const Json& object, const char* key, std::string_view fallback);

}  // namespace mana_ai::core
