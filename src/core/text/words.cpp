#include "mana_ai/core/text/words.hpp"

#include <algorithm>
#include <array>
#include <cstddef>

#include "mana_ai/core/text/ascii.hpp"
#include "mana_ai/core/text/utf8.hpp"

namespace mana_ai::core {

namespace {

bool is_space(char32_t c) noexcept {
    return (c >= '\t' && c <= '\r') || c == ' ' || c == 0x85 || c == 0xA0 || c == 0x1680 ||
           (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F ||
           c == 0x205F || c == 0x3000;
}

bool is_control(char32_t c) noexcept {
    return c < 0x20 || (c >= 0x7F && c < 0xA0);
}

struct Range {
    char32_t first;
    char32_t last;
};

// Outside ASCII every character counts as a letter except these blocks of punctuation, symbols,
// spaces and emoji: a letter that counted as punctuation would start a word in the middle of one.
constexpr std::array<Range, 18> kNoLetters = {{{0x80, 0xA9},
                                               {0xAB, 0xB4},
                                               {0xB6, 0xB9},
                                               {0xBB, 0xBF},
                                               {0xD7, 0xD7},
                                               {0xF7, 0xF7},
                                               {0x1680, 0x1680},
                                               {0x2000, 0x206F},
                                               {0x20A0, 0x20CF},
                                               {0x2190, 0x2BFF},
                                               {0x2E00, 0x2E7F},
                                               {0x3000, 0x3004},
                                               {0x3008, 0x3020},
                                               {0xFE00, 0xFE6F},
                                               {0xFEFF, 0xFEFF},
                                               {0xFF01, 0xFF0F},
                                               {0xFFF0, 0xFFFF},
                                               {0x1F000, 0x10FFFF}}};

constexpr bool is_ascii_word(char32_t c) noexcept {
    return ascii::is_alphanumeric(c) || c == '_';
}

bool is_word(char32_t c) noexcept {
    if (c < 0x80) {
        return is_ascii_word(c);
    }
    return std::none_of(kNoLetters.begin(), kNoLetters.end(),
                        [c](const Range& range) { return range.first <= c && c <= range.last; });
}

constexpr std::array<bool, 256> ascii_words() noexcept {
    std::array<bool, 256> words{};
    for (char32_t c = 0; c < 0x80; ++c) {
        words[c] = is_ascii_word(c);
    }
    return words;
}
// By bytes: those of longer sequences are in none.
constexpr std::array<bool, 256> kIsAsciiWord = ascii_words();

// The end of the phrase that begins at `at`; npos if it does not.
std::size_t end_of_phrase(std::string_view text, std::size_t at, std::string_view phrase) noexcept {
    for (const char wanted : phrase) {
        if (at >= text.size()) {
            return std::string_view::npos;
        }
        if (wanted == ' ') {
            const std::size_t start = at;
            while (at < text.size()) {
                const CodePoint c = first_code_point(text.substr(at));
                if (!is_space(c.value)) {
                    break;
                }
                at += c.length;
            }
            if (at == start) {
                return std::string_view::npos;
            }
        } else {
            if (ascii::lower(text[at++]) != wanted) {
                return std::string_view::npos;
            }
        }
    }
    return at;
}

}  // namespace

bool contains_phrase(std::string_view text, std::span<const std::string_view> phrases,
                     PhraseEnd end) noexcept {
    // Most words begin with another letter than every phrase.
    std::array<bool, 256> begins_phrase{};
    for (const std::string_view phrase : phrases) {
        if (!phrase.empty()) {
            begins_phrase[static_cast<unsigned char>(phrase.front())] = true;
        }
    }
    bool after_word = false;
    for (std::size_t at = 0; at < text.size();) {
        const auto byte = static_cast<unsigned char>(text[at]);
        if (after_word && kIsAsciiWord[byte]) {
            ++at;
            continue;
        }
        const CodePoint c = byte < 0x80 ? CodePoint{byte, 1} : first_code_point(text.substr(at));
        const bool in_word = byte < 0x80 ? kIsAsciiWord[byte] : is_word(c.value);
        if (in_word && !after_word &&
            begins_phrase[static_cast<unsigned char>(ascii::lower(text[at]))]) {
            for (const std::string_view phrase : phrases) {
                const std::size_t stop = end_of_phrase(text, at, phrase);
                if (stop != std::string_view::npos &&
                    (end == PhraseEnd::Anywhere || stop == text.size() ||
                     !is_word(first_code_point(text.substr(stop)).value))) {
                    return true;
                }
            }
        }
        after_word = in_word;
        at += c.length;
    }
    return false;
}

std::string_view trimmed(std::string_view text) noexcept {
    const auto is_blank = [](char32_t c) { return is_space(c) || is_control(c); };
    while (!text.empty()) {
        const CodePoint c = first_code_point(text);
        if (!is_blank(c.value)) {
            break;
        }
        text.remove_prefix(c.length);
    }
    while (!text.empty()) {
        std::size_t start = text.size() - 1;
        while (start > 0 && text.size() - start < 4 && is_continuation(text[start])) {
            --start;
        }
        const CodePoint c = first_code_point(text.substr(start));
        if (start + c.length != text.size() || !is_blank(c.value)) {
            break;
        }
        text.remove_suffix(c.length);
    }
    return text;
}

std::string one_line(std::string_view text) {
    std::string line;
    for (const char c : text) {
        const bool is_space = static_cast<unsigned char>(c) <= ' ' || c == '\x7F';
        if (!is_space) {
            line += c;
        } else if (!line.empty() && line.back() != ' ') {
            line += ' ';
        }
    }
    if (line.ends_with(' ')) {
        line.pop_back();
    }
    return line;
}

}  // namespace mana_ai::core
