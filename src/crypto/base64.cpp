#include "mana_ai/crypto/base64.hpp"

#include <array>

namespace mana_ai::crypto {

namespace {

// No digit's value has these bits, so one test after OR-ing four values finds an invalid character.
constexpr std::uint8_t kNoDigit = 0xC0;

constexpr std::array<std::uint8_t, 256> kValues = [] {
    constexpr std::string_view digits =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    std::array<std::uint8_t, 256> values{};
    values.fill(kNoDigit);
    for (std::size_t i = 0; i < digits.size(); ++i) {
        values[static_cast<unsigned char>(digits[i])] = static_cast<std::uint8_t>(i);
    }
    return values;
}();

std::size_t padding_of(std::string_view text) noexcept {
    return text.ends_with("==") ? 2 : text.ends_with('=') ? 1 : 0;
}

}  // namespace

std::optional<std::size_t> base64_decoded_size(std::string_view text) noexcept {
    if (text.size() % 4 != 0) {
        return std::nullopt;
    }
    return text.size() / 4 * 3 - padding_of(text);
}

bool decode_base64(std::string_view text, std::span<std::uint8_t> out) noexcept {
    if (base64_decoded_size(text) != out.size()) {
        return false;
    }
    const auto value = [&](std::size_t i) -> std::uint32_t {
        return kValues[static_cast<unsigned char>(text[i])];
    };
    const std::size_t padding = padding_of(text);
    const std::size_t whole = padding == 0 ? text.size() : text.size() - 4;
    std::size_t written = 0;
    for (std::size_t i = 0; i < whole; i += 4) {
        const std::uint32_t a = value(i);
        const std::uint32_t b = value(i + 1);
        const std::uint32_t c = value(i + 2);
        const std::uint32_t d = value(i + 3);
        if (((a | b | c | d) & kNoDigit) != 0) {
            return false;
        }
        const std::uint32_t bits = a << 18 | b << 12 | c << 6 | d;
        out[written++] = static_cast<std::uint8_t>(bits >> 16);
        out[written++] = static_cast<std::uint8_t>(bits >> 8);
        out[written++] = static_cast<std::uint8_t>(bits);
    }
    if (padding != 0) {
        const std::uint32_t a = value(whole);
        const std::uint32_t b = value(whole + 1);
        const std::uint32_t c = padding == 1 ? value(whole + 2) : 0;
        const std::uint32_t unused = padding == 1 ? c & 0x03 : b & 0x0F;
        if (((a | b | c) & kNoDigit) != 0 || unused != 0) {
            return false;
        }
        const std::uint32_t bits = a << 18 | b << 12 | c << 6;
        out[written++] = static_cast<std::uint8_t>(bits >> 16);
        if (padding == 1) {
            out[written++] = static_cast<std::uint8_t>(bits >> 8);
        }
    }
    return true;
}

std::optional<std::vector<std::uint8_t>> decode_base64url(std::string_view text) {
    std::string standard(text);
    for (char& c : standard) {
        if (c == '+' || c == '/' || c == '=') {
            return std::nullopt;
        }
        c = c == '-' ? '+' : c == '_' ? '/' : c;
    }
    standard.append((4 - standard.size() % 4) % 4, '=');
    const auto size = base64_decoded_size(standard);
    if (!size || text.size() % 4 == 1) {
        return std::nullopt;
    }
    std::vector<std::uint8_t> bytes(*size);
    if (!decode_base64(standard, bytes)) {
        return std::nullopt;
    }
    return bytes;
}

std::string encode_base64url(std::span<const std::uint8_t> bytes) {
    static constexpr std::string_view digits =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    std::string text;
    text.reserve((bytes.size() * 4 + 2) / 3);
    std::uint32_t bits = 0;
    int held = 0;
    for (const std::uint8_t byte : bytes) {
        bits = bits << 8 | byte;
        for (held += 8; held >= 6; held -= 6) {
            text += digits[bits >> (held - 6) & 0x3F];
        }
    }
    if (held > 0) {
        text += digits[bits << (6 - held) & 0x3F];
    }
    return text;
}

}  // namespace mana_ai::crypto
