// Values that clients encrypt before they send them. docs/contract/inputs.md, Mission key grant.
#pragma once

#include <cstddef>
#include <string_view>
#include <variant>

#include "mana_ai/crypto/grant.hpp"
#include "mana_ai/crypto/secret_bytes.hpp"

namespace mana_ai::crypto {

// Longer values count as malformed, in bytes of their text. Far longer than any input may show.
inline constexpr std::size_t kMaxEncryptedValue = 16 * 1024 * 1024;

enum class ValueFailure {
    kMalformed,           // not in the page's format, or the plaintext is not JSON
    kTamperedOrWrongKey,  // changed since it was encrypted, or encrypted with another key
};

// The reasons in the audit: "ciphertext-malformed", "ciphertext-tampered-or-wrong-key".
std::string_view to_string(ValueFailure failure) noexcept;

// Whether a string is an encrypted value, well-formed or not. Others are to be used as they are.
bool is_encrypted(std::string_view text) noexcept;

// Opens "enc:1:" base64(iv) "." base64(ciphertext and tag), AES-256-GCM. The result is JSON text
// (for which is_json of json_text.hpp holds) that the caller owns; nothing unauthenticated is ever
// returned. Any text may be given; an empty key opens nothing. std::bad_alloc and
// CryptoUnavailable, neither because of the text.
std::variant<SecretBytes, ValueFailure> open_value(std::string_view text,
                                                   const MissionDataKey& key);

}  // namespace mana_ai::crypto
