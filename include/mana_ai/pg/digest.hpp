// SHA-256 as the server computes it.
#pragma once

#include <string>
#include <string_view>

namespace mana_ai::pg {

// In lower-case hexadecimal, 64 characters. Throws PgError when the server cannot hash.
std::string sha256_hex(std::string_view text);

}  // namespace mana_ai::pg
