// The service key as a password. docs/contract/interface.md, HTTP endpoints.
#pragma once

#include <string>
#include <string_view>

namespace mana_ai::crypto {

// Whether the offered key is the right one, in a time that does not depend on where they differ. An
// empty right key matches nothing. CryptoUnavailable.
bool is_access_key(std::string_view offered, std::string_view key);

// The SHA-256 of a text in padded base64, as a Content-Security-Policy names it.
std::string sha256_base64(std::string_view text);

}  // namespace mana_ai::crypto
