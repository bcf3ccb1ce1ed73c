#include "mana_ai/core/service/rate_headers.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>

#include "mana_ai/core/service/retry_after.hpp"
#include "mana_ai/core/text/ascii.hpp"
#include "mana_ai/core/text/json.hpp"

namespace mana_ai::core {

namespace {

constexpr double kMaxLimit = 1e12;

std::optional<double> parse_number(std::string_view text) {
    double value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc() || end != text.data() + text.size() || !std::isfinite(value)) {
        return std::nullopt;
    }
    return value;
}

// A delay, a date, or a point in time as a number: seconds or milliseconds since 1970.
std::optional<Instant> parse_reset(std::string_view text, Instant now) {
    if (const auto number = parse_number(text)) {
        constexpr double kYear2001 = 1e9;
        constexpr double kYear2001InMillis = 1e12;
        if (*number >= kYear2001) {
            const double micros = *number >= kYear2001InMillis ? *number * 1e3 : *number * 1e6;
            if (micros > static_cast<double>(kEndOfIsoInstants)) {
                return std::nullopt;
            }
            return std::clamp<Instant>(static_cast<Instant>(micros) - now, 0, kMaxRetryAfter);
        }
    }
    if (const auto delay = parse_go_duration(text)) {
        return delay;
    }
    if (const auto instant = parse_instant(text)) {
        return std::clamp<Instant>(*instant - now, 0, kMaxRetryAfter);
    }
    return parse_retry_after(text, now);
}

// The three headers of one limit.
struct Spelling {
    std::string_view limit;
    std::string_view remaining;
    std::string_view reset;  // empty = never sent, the limit is one per minute
    bool is_window;
    bool of_tokens;
};

// OpenAI, Groq, Azure and others; Anthropic; OpenRouter and similar ones; Mistral.
// Anthropic's limit of output tokens is left out: calls are measured by all of their tokens, which
// are mostly input.
constexpr std::array<Spelling, 9> kSpellings = {{
    {"x-ratelimit-limit-requests", "x-ratelimit-remaining-requests", "x-ratelimit-reset-requests",
     false, false},
    {"x-ratelimit-limit-tokens", "x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens", false,
     true},
    {"anthropic-ratelimit-requests-limit", "anthropic-ratelimit-requests-remaining",
     "anthropic-ratelimit-requests-reset", false, false},
    {"anthropic-ratelimit-tokens-limit", "anthropic-ratelimit-tokens-remaining",
     "anthropic-ratelimit-tokens-reset", false, true},
    {"anthropic-ratelimit-input-tokens-limit", "anthropic-ratelimit-input-tokens-remaining",
     "anthropic-ratelimit-input-tokens-reset", false, true},
    {"x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset", true, false},
    {"x-ratelimit-limit-req-minute", "x-ratelimit-remaining-req-minute", "", true, false},
    {"x-ratelimit-limit-tokens-minute", "x-ratelimit-remaining-tokens-minute", "", true, true},
    {"ratelimit-limit", "ratelimit-remaining", "ratelimit-reset", true, false},
}};

struct Found {
    std::optional<double> limit;
    std::optional<double> remaining;
    std::optional<Instant> reset;
};

bool same_name(std::string_view given, std::string_view wanted) {
    return given.size() == wanted.size() &&
           std::equal(given.begin(), given.end(), wanted.begin(),
                      [](char a, char b) { return ascii::lower(a) == b; });
}

// Without a plausible limit there is no allowance: some services send -1 for "no limit".
std::optional<RateAllowance> allowance_of(const Found& found, const Spelling& spelling) {
    if (!found.limit || !found.remaining || *found.limit < 1 || *found.limit > kMaxLimit ||
        *found.remaining < 0 || (!found.reset && !spelling.reset.empty())) {
        return std::nullopt;
    }
    return RateAllowance{*found.limit, std::min(*found.remaining, *found.limit), found.reset,
                         spelling.is_window};
}

}  // namespace

std::optional<Instant> parse_go_duration(std::string_view text) noexcept {
    if (text.empty()) {
        return std::nullopt;
    }
    double micros = 0;
    while (!text.empty()) {
        double value = 0;
        const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value,
                                                  std::chars_format::fixed);
        if (error != std::errc() || !std::isfinite(value) || value < 0 || text.front() == '-') {
            return std::nullopt;
        }
        text.remove_prefix(static_cast<std::size_t>(end - text.data()));
        std::size_t length = 0;
        while (length < text.size() && ascii::lower(text[length]) >= 'a' &&
               ascii::lower(text[length]) <= 'z') {
            ++length;
        }
        const std::string_view unit = text.substr(0, length);
        text.remove_prefix(length);
        if (unit == "d") {
            value *= 24.0 * 3600e6;
        } else if (unit == "h") {
            value *= 3600e6;
        } else if (unit == "m") {
            value *= 60e6;
        } else if (unit == "s" || (unit.empty() && text.empty() && micros == 0)) {
            value *= 1e6;
        } else if (unit == "ms") {
            value *= 1e3;
        } else if (unit != "us") {
            return std::nullopt;
        }
        micros += value;
    }
    return static_cast<Instant>(
        std::llround(std::min(micros, static_cast<double>(kMaxRetryAfter))));
}

RateHeaders parse_rate_headers(std::string_view lines, Instant now) {
    std::array<Found, kSpellings.size()> found;
    while (!lines.empty()) {
        const std::size_t end = std::min(lines.find('\n'), lines.size());
        const std::string_view line = lines.substr(0, end);
        lines.remove_prefix(std::min(end + 1, lines.size()));
        const std::size_t colon = line.find(':');
        if (colon == std::string_view::npos) {
            continue;
        }
        const std::string_view name = ascii::trimmed(line.substr(0, colon));
        const std::string_view value = ascii::trimmed(line.substr(colon + 1));
        for (std::size_t i = 0; i < kSpellings.size(); ++i) {
            if (same_name(name, kSpellings[i].limit)) {
                found[i].limit = parse_number(value);
            } else if (same_name(name, kSpellings[i].remaining)) {
                found[i].remaining = parse_number(value);
            } else if (!kSpellings[i].reset.empty() && same_name(name, kSpellings[i].reset)) {
                found[i].reset = parse_reset(value, now);
            }
        }
    }
    RateHeaders headers;
    for (std::size_t i = 0; i < kSpellings.size(); ++i) {
        const auto allowance = allowance_of(found[i], kSpellings[i]);
        auto& kept = kSpellings[i].of_tokens ? headers.tokens : headers.requests;
        if (allowance && (!kept || allowance->remaining < kept->remaining)) {
            kept = allowance;
        }
    }
    return headers;
}

std::string rate_headers_in_body(std::string_view body) {
    // Most bodies are successes without them, and may be large.
    if (body.find("\"error\"") == std::string_view::npos ||
        body.find("\"metadata\"") == std::string_view::npos) {
        return {};
    }
    const std::optional<Json> parsed = parse_json(body);
    if (!parsed || !parsed->is_object()) {
        return {};
    }
    const Json* at = &*parsed;
    for (const char* key : {"error", "metadata", "headers"}) {
        const auto member = at->find(key);
        if (member == at->end() || !member->is_object()) {
            return {};
        }
        at = &*member;
    }
    std::string lines;
    for (const auto& [name, value] : at->items()) {
        if (value.is_string() || value.is_number()) {
            lines += name + ": " +
                     (value.is_string() ? value.get<std::string>() : dump_json(value)) + '\n';
        }
    }
    return lines;
}

}  // namespace mana_ai::core
