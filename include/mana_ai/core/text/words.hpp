// Words and lines of a text.
#pragma once

#include <span>
#include <string>
#include <string_view>

namespace mana_ai::core {

enum class PhraseEnd {
    Anywhere,      // "news" is found in "Newsletter"
    AtEndOfAWord,  // "deep dive" is not found in "deep diver"
};

// Whether one of the phrases begins at the start of a word of the text, ASCII letters in either
// case. What precedes a word is neither letter nor digit nor underscore, in any script. Phrases
// are given in lower case; a space in them stands for any whitespace. Any bytes may be given.
bool contains_phrase(std::string_view text, std::span<const std::string_view> phrases,
                     PhraseEnd end) noexcept;

// Without whitespace (of any script) and control characters at both ends.
std::string_view trimmed(std::string_view text) noexcept;

// Each run of ASCII whitespace and control characters becomes one space; none at the ends.
std::string one_line(std::string_view text);

}  // namespace mana_ai::core
