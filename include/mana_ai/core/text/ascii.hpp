// ASCII letters and blanks, whatever the locale. Bytes of other scripts stay as they are.
#pragma once

#include <algorithm>
#include <cstddef>
#include <string>
#include <string_view>

namespace mana_ai::core::ascii {

constexpr char32_t lower(char32_t c) noexcept {
    return c >= 'A' && c <= 'Z' ? c + ('a' - 'A') : c;
}

constexpr char lower(char c) noexcept {
    return c >= 'A' && c <= 'Z' ? static_cast<char>(c + ('a' - 'A')) : c;
}

inline std::string lower_case(std::string_view text) {
    std::string result(text);
    std::transform(result.begin(), result.end(), result.begin(), [](char c) { return lower(c); });
    return result;
}

constexpr bool is_alphanumeric(char32_t c) noexcept {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
}

// For a byte of UTF-8, which may be negative.
constexpr bool is_alphanumeric(char c) noexcept {
    return is_alphanumeric(static_cast<char32_t>(static_cast<unsigned char>(c)));
}

// `lower_prefix` is in lower case.
constexpr bool starts_with_ignoring_case(std::string_view text,
                                         std::string_view lower_prefix) noexcept {
    return text.size() >= lower_prefix.size() &&
           std::equal(lower_prefix.begin(), lower_prefix.end(), text.begin(),
                      [](char wanted, char c) { return wanted == lower(c); });
}

// Without blanks, tabs and line ends at both ends.
constexpr std::string_view trimmed(std::string_view text) noexcept {
    constexpr std::string_view kBlanks = " \t\r\n";
    const std::size_t first = text.find_first_not_of(kBlanks);
    if (first == std::string_view::npos) {
        return {};
    }
    return text.substr(first, text.find_last_not_of(kBlanks) - first + 1);
}

}  // namespace mana_ai::core::ascii
