// SHA-256.
#pragma once

#include <string>
#include <string_view>

namespace mana_ai::crypto {

// In lower-case hexadecimal, 64 characters. Throws CryptoUnavailable.
std::string sha256_hex(std::string_view text);

}  // namespace mana_ai::crypto
