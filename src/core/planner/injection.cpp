#include "mana_ai/core/planner/injection.hpp"

#include <array>
#include <cstddef>
#include <string>
#include <vector>

#include "mana_ai/core/text/ascii.hpp"
#include "mana_ai/core/text/utf8.hpp"

namespace mana_ai::core {

namespace {

constexpr std::size_t kMinSearched = 16;  // characters
constexpr int kMaxRoleGap = 40;           // characters

bool is_space(char c) noexcept {
    return c == ' ' || (c >= '\t' && c <= '\r');
}

bool is_word_character(char c) noexcept {
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_';
}

bool is_long_enough(std::string_view text) noexcept {
    constexpr std::size_t kLongestCharacter = 4;  // bytes
    if (text.size() >= kMinSearched * kLongestCharacter) {
        return true;
    }
    std::size_t characters = 0;
    for (const char c : text) {
        if (!is_continuation(c) && ++characters == kMinSearched) {
            return true;
        }
    }
    return false;
}

bool take(std::string_view& rest, std::string_view word) noexcept {
    const bool there = rest.starts_with(word);
    rest.remove_prefix(there ? word.size() : 0);
    return there;
}

void skip_spaces(std::string_view& rest) noexcept {
    while (!rest.empty() && is_space(rest.front())) {
        rest.remove_prefix(1);
    }
}

// Whether `begin` occurs anywhere with a rest after it that `fits`. Linear as long as `fits` reads
// a bounded part of the rest, or nothing that is also in the next occurrence's rest.
template <typename Fits>
bool occurs(std::string_view text, std::string_view begin, Fits fits) {
    for (std::size_t at = text.find(begin); at != std::string_view::npos;
         at = text.find(begin, at + 1)) {
        if (fits(text.substr(at + begin.size()))) {
            return true;
        }
    }
    return false;
}

bool orders_to_ignore(std::string_view rest) noexcept {
    if (!take(rest, "all ")) {
        take(rest, "the ");
    }
    return take(rest, "previous ") &&
           (rest.starts_with("instructions") || rest.starts_with("messages"));
}

bool gives_a_role(std::string_view rest) noexcept {
    static constexpr std::array<std::string_view, 4> kNames = {"assistant", "gpt", "claude",
                                                               "gemini"};
    if (rest.empty() || !is_space(rest.front())) {
        return false;
    }
    rest.remove_prefix(1);
    for (int gap = 0; gap <= kMaxRoleGap && !rest.empty(); ++gap) {
        // The names' first letters: other characters are skipped cheaply.
        if (const char c = rest.front(); c == 'a' || c == 'g' || c == 'c') {
            for (const std::string_view name : kNames) {
                if (rest.starts_with(name)) {
                    return true;
                }
            }
        }
        do {
            rest.remove_prefix(1);
        } while (!rest.empty() && is_continuation(rest.front()));
    }
    return false;
}

bool is_system_tag(std::string_view rest) noexcept {
    skip_spaces(rest);
    return take(rest, "system") && (rest.empty() || !is_word_character(rest.front()));
}

bool is_system_fence(std::string_view rest) noexcept {
    skip_spaces(rest);
    return rest.starts_with("system");
}

bool has_template(std::string_view text) noexcept {
    std::size_t open = text.find("{{");
    while (open != std::string_view::npos) {
        const std::size_t close = text.find("}}", open + 2);
        if (close == std::string_view::npos) {
            return false;
        }
        if (close > open + 2) {
            return true;
        }
        open = text.find("{{", close + 2);
    }
    return false;
}

std::optional<InjectionMarker> marker_in(std::string_view text) {
    if (!is_long_enough(text)) {
        return std::nullopt;
    }
    const std::string lower = ascii::lower_case(text);
    if (occurs(lower, "ignore ", orders_to_ignore)) {
        return InjectionMarker::IgnorePrevious;
    }
    if (occurs(lower, "you are now", gives_a_role)) {
        return InjectionMarker::NewRole;
    }
    if (occurs(lower, "<", is_system_tag)) {
        return InjectionMarker::SystemTag;
    }
    if (has_template(lower)) {
        return InjectionMarker::Template;
    }
    if (occurs(lower, "```", is_system_fence)) {
        return InjectionMarker::SystemFence;
    }
    return std::nullopt;
}

}  // namespace

const char* describe(InjectionMarker marker) noexcept {
    switch (marker) {
        case InjectionMarker::IgnorePrevious:
            return "eine Aufforderung, Früheres zu ignorieren („ignore previous instructions“)";
        case InjectionMarker::NewRole:
            return "die Zuweisung einer neuen Rolle („you are now …“)";
        case InjectionMarker::SystemTag:
            return "das Wort „system“ nach einer spitzen Klammer";
        case InjectionMarker::Template:
            return "ein Platzhalter in doppelten geschweiften Klammern";
        case InjectionMarker::SystemFence:
            break;
    }
    return "ein Codeblock, der mit „system“ beginnt";
}

std::optional<InjectionMarker> find_injection_marker(const Json& arguments) {
    std::vector<const Json*> open = {&arguments};
    while (!open.empty()) {
        const Json& value = *open.back();
        open.pop_back();
        if (value.is_string()) {
            if (const auto marker = marker_in(value.get_ref<const std::string&>())) {
                return marker;
            }
        } else if (value.is_object()) {
            for (auto member = value.begin(); member != value.end(); ++member) {
                if (const auto marker = marker_in(member.key())) {
                    return marker;
                }
                open.push_back(&*member);
            }
        } else if (value.is_array()) {
            for (const Json& element : value) {
                open.push_back(&element);
            }
        }
    }
    return std::nullopt;
}

std::optional<InjectionMarker> find_injection_marker_in_text(std::string_view arguments) {
    std::optional<Json> parsed = parse_json(arguments);
    if (!parsed) {
        return marker_in(arguments);
    }
    // As in the plan step: a marker must not hide behind characters that are removed later.
    remove_nul(*parsed);
    return find_injection_marker(*parsed);
}

}  // namespace mana_ai::core
