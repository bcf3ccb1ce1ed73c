// UTF-8: checks, code points, repaired and cut texts.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace mana_ai::core {

// Whether the byte continues a sequence; all others begin one, or stand alone.
constexpr bool is_continuation(char c) noexcept {
    return (static_cast<unsigned char>(c) & 0xC0) == 0x80;
}

struct CodePoint {
    char32_t value;
    std::size_t length;  // in bytes, at least 1

    // A byte that no well-formed sequence begins with; a U+FFFD in the text has three bytes.
    bool is_invalid() const noexcept { return value == 0xFFFD && length == 1; }
};

// The first code point of a text that is not empty; U+FFFD for a byte that begins none.
CodePoint first_code_point(std::string_view text) noexcept;

// The code points of valid UTF-8.
std::size_t count_code_points(std::string_view text) noexcept;

// Valid UTF-8 without U+0000: every invalid byte becomes U+FFFD, NUL bytes are dropped.
std::string repair_utf8(std::string_view text);

// Length in bytes of the well-formed UTF-8 sequence at the start of a text that is not empty; 0 if
// there is none.
std::size_t utf8_sequence_length(std::string_view text) noexcept;

// At most max_chars code points of the text; a cut text ends in "…", which counts as one of them.
// The result is always valid UTF-8.
std::string cut_utf8(std::string_view text, std::size_t max_chars);

// The same for valid UTF-8, counted in UTF-16 units, as JavaScript counts the length of a string:
// a character beyond U+FFFF is two.
std::string cut_utf16(std::string_view text, std::size_t max_units);

}  // namespace mana_ai::core
