#include "mana_ai/core/text/utf8.hpp"

#include <algorithm>

namespace mana_ai::core {

namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";
constexpr std::string_view kEllipsis = "…";

}  // namespace

// Unicode 15, table 3-7.
std::size_t utf8_sequence_length(std::string_view text) noexcept {
    const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
    const auto continues = [&](std::size_t from, std::size_t count) {
        for (std::size_t i = from; i < from + count; ++i) {
            if ((byte(i) & 0xC0) != 0x80) {
                return false;
            }
        }
        return true;
    };
    const unsigned char lead = byte(0);
    if (lead < 0x80) {
        return 1;
    }
    if (lead < 0xC2 || lead > 0xF4) {
        return 0;
    }
    const std::size_t length = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
    if (text.size() < length || !continues(1, length - 1)) {
        return 0;
    }
    const unsigned char second = byte(1);
    if ((lead == 0xE0 && second < 0xA0) || (lead == 0xED && second > 0x9F) ||
        (lead == 0xF0 && second < 0x90) || (lead == 0xF4 && second > 0x8F)) {
        return 0;
    }
    return length;
}

CodePoint first_code_point(std::string_view text) noexcept {
    const std::size_t length = utf8_sequence_length(text);
    if (length == 0) {
        return {0xFFFD, 1};
    }
    const auto lead = static_cast<unsigned char>(text[0]);
    char32_t value = length == 1 ? lead : lead & (0xFFu >> (length + 1));
    for (std::size_t i = 1; i < length; ++i) {
        value = value << 6 | (static_cast<unsigned char>(text[i]) & 0x3F);
    }
    return {value, length};
}

std::size_t count_code_points(std::string_view text) noexcept {
    return static_cast<std::size_t>(
        std::count_if(text.begin(), text.end(), [](char c) { return !is_continuation(c); }));
}

std::string repair_utf8(std::string_view text) {
    std::string repaired;
    repaired.reserve(text.size());
    std::size_t copied = 0;  // everything before it is in `repaired`, or dropped
    for (std::size_t at = 0; at < text.size();) {
        const std::size_t length = utf8_sequence_length(text.substr(at));
        if (length > 0 && text[at] != '\0') {
            at += length;
            continue;
        }
        repaired += text.substr(copied, at - copied);
        if (length == 0) {
            repaired += kReplacement;
        }
        copied = ++at;
    }
    repaired += text.substr(copied);
    return repaired;
}

std::string cut_utf16(std::string_view text, std::size_t max_units) {
    std::size_t units = 0;
    std::size_t kept = 0;  // bytes that leave room for the ellipsis
    for (std::size_t at = 0; at < text.size();) {
        const std::size_t length = std::max<std::size_t>(utf8_sequence_length(text.substr(at)), 1);
        units += length == 4 ? 2 : 1;
        if (units > max_units) {
            std::string cut;
            cut.reserve(kept + kEllipsis.size());
            cut += text.substr(0, kept);
            return max_units == 0 ? std::string() : cut.append(kEllipsis);
        }
        at += length;
        if (units < max_units) {
            kept = at;
        }
    }
    return std::string(text);
}

std::string cut_utf8(std::string_view text, std::size_t max_chars) {
    if (max_chars == 0) {
        return {};
    }
    std::string kept;
    // One buffer, since growing would leave copies of a possibly secret text in memory.
    kept.reserve(std::min(text.size(), 4 * std::min(max_chars, text.size())) + kEllipsis.size());
    std::size_t end_before_last = 0;  // where the ellipsis would have to go
    std::size_t copied = 0;           // everything before it is in `kept`
    std::size_t at = 0;
    for (std::size_t count = 0; at < text.size(); ++count) {
        if (count == max_chars) {
            kept += text.substr(copied, at - copied);
            kept.resize(end_before_last);
            kept += kEllipsis;
            return kept;
        }
        end_before_last = kept.size() + (at - copied);
        const std::size_t length = utf8_sequence_length(text.substr(at));
        if (length == 0) {
            kept += text.substr(copied, at - copied);
            kept += kReplacement;
            copied = at + 1;
        }
        at += std::max<std::size_t>(length, 1);
    }
    kept += text.substr(copied);
    return kept;
}

}  // namespace mana_ai::core
