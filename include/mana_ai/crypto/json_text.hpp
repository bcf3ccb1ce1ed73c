// JSON read in place. A parser would copy an opened value into buffers that nobody wipes.
// docs/contract/inputs.md, Mission key grant.
#pragma once

#include <optional>
#include <string_view>

#include "mana_ai/crypto/secret_bytes.hpp"

namespace mana_ai::crypto {

// Whether the text is one JSON value (RFC 8259) in valid UTF-8, nested at most
// core::kMaxJsonDepth deep, without unpaired surrogates and without numbers that no double can
// hold. core::parse_json accepts everything that passes. Neither copies nor allocates.
bool is_json(std::string_view text) noexcept;

// The content of a JSON string, as UTF-8 without U+0000, which PostgreSQL's text cannot hold.
// nullopt if the text is not JSON or is another kind of value. std::bad_alloc.
std::optional<SecretBytes> decode_json_string(std::string_view json);

}  // namespace mana_ai::crypto
