// Keeps text of users and models from closing or opening the tags that fence it in a prompt.
#include <array>
#include <cstddef>
#include <string>
#include <string_view>
#include <utility>

#include "mana_ai/core/planner/prompts.hpp"
#include "mana_ai/core/text/ascii.hpp"
#include "mana_ai/core/text/json.hpp"
#include "mana_ai/core/text/utf8.hpp"

namespace mana_ai::core {

namespace {

// Our tags without separators.
constexpr std::array<std::string_view, 6> kTags = {"userdata",    "agentcontext", "agentpersona",
                                                   "agentmemory", "reminder",     "compactsummary"};

constexpr std::string_view kHarmlessBracket = "‹";
constexpr char32_t kFullWidthBracket = 0xFF1C;

// Invisible characters: control characters and the tag block, in which whole instructions can be
// hidden.
bool is_dropped(char32_t c) noexcept {
    return (c < 0x20 && c != '\t' && c != '\n') || (c >= 0x7F && c < 0xA0) ||
           (c >= 0xE0000 && c <= 0xE007F);
}

// What a reader would overlook between the letters of a tag.
bool is_separator(char32_t c) noexcept {
    return c <= 0x20 || c == '_' || c == '-' || c == '/' || c == '\\' || c == 0xA0 || c == 0xAD ||
           c == 0x180E || (c >= 0x2000 && c <= 0x2015) || (c >= 0x2028 && c <= 0x202F) ||
           (c >= 0x205F && c <= 0x2064) || c == 0x3000 || (c >= 0xFE00 && c <= 0xFE0F) ||
           c == 0xFEFF || c == 0xFF0F || is_dropped(c);
}

// The letter in lower case; full-width letters count as plain ones.
char32_t folded(char32_t c) noexcept {
    if (c >= 0xFF21 && c <= 0xFF5A) {
        c -= 0xFF21 - 'A';
    }
    return ascii::lower(c);
}

// Whether what follows an opening bracket reads as one of our tags.
bool names_a_tag(std::string_view text, std::size_t at) noexcept {
    std::array<std::size_t, kTags.size()> matched{};
    std::array<bool, kTags.size()> alive;
    alive.fill(true);
    bool any_alive = true;
    while (any_alive && at < text.size()) {
        const auto [c, length] = first_code_point(text.substr(at));
        at += length;
        if (is_separator(c)) {
            continue;
        }
        any_alive = false;
        for (std::size_t tag = 0; tag < kTags.size(); ++tag) {
            alive[tag] = alive[tag] && folded(c) == static_cast<char32_t>(kTags[tag][matched[tag]]);
            if (alive[tag] && ++matched[tag] == kTags[tag].size()) {
                return true;
            }
            any_alive = any_alive || alive[tag];
        }
    }
    return false;
}

}  // namespace

std::string neutralise_tags(std::string_view text) {
    const std::string valid = repair_utf8(text);
    std::string safe;
    safe.reserve(valid.size());
    std::size_t copied = 0;  // everything before it is in `safe`, or dropped
    for (std::size_t at = 0; at < valid.size();) {
        // The common case.
        if (valid[at] >= 0x20 && valid[at] < 0x7F && valid[at] != '<') {
            ++at;
            continue;
        }
        const auto [c, length] = first_code_point(std::string_view(valid).substr(at));
        const bool opens_a_tag =
            (c == '<' || c == kFullWidthBracket) && names_a_tag(valid, at + length);
        if (opens_a_tag || is_dropped(c)) {
            safe.append(valid, copied, at - copied);
            if (opens_a_tag) {
                safe += kHarmlessBracket;
            }
            copied = at + length;
        }
        at += length;
    }
    safe.append(valid, copied);
    return safe;
}

}  // namespace mana_ai::core
