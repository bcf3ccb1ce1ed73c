#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace mana_ai::core {

// Two lower-case hexadecimal digits for each byte.
inline void append_hex(std::string& text, std::span<const std::uint8_t> bytes) {
    constexpr std::string_view kDigits = "0123456789abcdef";
    std::size_t at = text.size();
    text.resize(at + 2 * bytes.size());
    for (const std::uint8_t byte : bytes) {
        text[at++] = kDigits[byte >> 4];
        text[at++] = kDigits[byte & 15];
    }
}

}  // namespace mana_ai::core
