// Base64 of RFC 4648, section 4, read strictly. docs/contract/inputs.md, Mission key grant.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace mana_ai::crypto {

// The number of bytes that the text encodes if it is base64; nullopt if its length is not a
// multiple of four.
std::optional<std::size_t> base64_decoded_size(std::string_view text) noexcept;

// Decodes into `out`, which must have exactly base64_decoded_size(text) bytes. Standard alphabet,
// padding required, unused bits zero, no other characters: each byte string has one encoding.
// False for everything else; `out` may then hold a part. The empty text encodes no bytes.
bool decode_base64(std::string_view text, std::span<std::uint8_t> out) noexcept;

// Base64url (RFC 4648, section 5) as in JSON Web Signatures: without padding, unused bits zero, no
// other characters. nullopt for everything else. std::bad_alloc.
std::optional<std::vector<std::uint8_t>> decode_base64url(std::string_view text);
std::string encode_base64url(std::span<const std::uint8_t> bytes);

}  // namespace mana_ai::crypto
