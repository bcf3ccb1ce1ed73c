// Compares the hand-written matcher of injection markers with regular expressions, on texts that
// the bytes of the input compose from the markers' parts.
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <regex>
#include <string>

#include "mana_ai/core/planner/injection.hpp"

namespace {

using namespace mana_ai::core;

constexpr std::array<const char*, 32> kParts = {"ignore ",
                                                "all ",
                                                "the ",
                                                "previous ",
                                                "instructions",
                                                "messages",
                                                "you are now",
                                                "You Are Now ",
                                                "assistant",
                                                "GPT",
                                                "claude",
                                                "gemini",
                                                "<",
                                                "system",
                                                "SYSTEM",
                                                "{{",
                                                "}}",
                                                "```",
                                                " ",
                                                "\n",
                                                "x",
                                                "_",
                                                "{",
                                                "}",
                                                "`",
                                                "sys",
                                                "tem",
                                                "now",
                                                "1234567890",
                                                "Ignore All Previous ",
                                                "12345678901234567890",
                                                "s"};

std::string compose(const std::uint8_t* data, std::size_t size) {
    constexpr std::size_t kMaxSize = 400;  // std::regex recurses once per character
    std::string text;
    for (std::size_t i = 0; i < size && text.size() < kMaxSize; ++i) {
        if (data[i] < 0x80) {
            text += static_cast<char>(data[i]);
        } else {
            text += kParts[data[i] % kParts.size()];
        }
    }
    return text;
}

bool expected(const std::string& text) {
    constexpr auto kFlags = std::regex::ECMAScript | std::regex::icase | std::regex::optimize;
    static const std::regex marker(
        "ignore (all |the )?previous (instructions|messages)"
        "|you are now\\s[\\s\\S]{0,40}(assistant|gpt|claude|gemini)"
        "|<\\s*system(?![a-z0-9_])"
        "|```\\s*system",
        kFlags);
    static const std::regex braces("\\{\\{([\\s\\S]*?)\\}\\}", kFlags);
    if (text.size() < 16) {
        return false;
    }
    if (std::regex_search(text, marker)) {
        return true;
    }
    for (std::sregex_iterator pair(text.begin(), text.end(), braces), end; pair != end; ++pair) {
        if (pair->length(1) > 0) {
            return true;
        }
    }
    return false;
}

bool has_injection_marker(const Json& arguments) {
    return find_injection_marker(arguments).has_value();
}

void require(bool holds) {
    if (!holds) {
        std::abort();
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const std::string text = compose(data, size);
    const bool flagged = expected(text);
    require(has_injection_marker(Json(text)) == flagged);
    require(has_injection_marker(Json{{"a", {1, nullptr, {{"b", text}}}}}) == flagged);
    require(has_injection_marker(Json{{text, 1}}) == flagged);
    // Any bytes, as JSON or as they are: nothing but an answer.
    const std::string raw(reinterpret_cast<const char*>(data), size);
    (void)find_injection_marker_in_text(raw);
    (void)has_injection_marker(Json(raw));
    return 0;
}
