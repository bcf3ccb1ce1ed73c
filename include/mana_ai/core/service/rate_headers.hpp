// A service's rate limits, as the headers of a reply state them. docs/operations.md, "When the
// provider says no"; samples of each spelling are in test/data/rate_headers.jsonl.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "mana_ai/core/time/instant.hpp"

namespace mana_ai::core {

// One limit, as a reply states it.
struct RateAllowance {
    double limit = 0;      // at least 1
    double remaining = 0;  // 0 to limit
    // Until the whole allowance is back. nullopt: not said; the limit is per minute.
    std::optional<Instant> reset_after;
    // The whole allowance comes back at once then; otherwise gradually until then.
    bool is_window = false;

    bool operator==(const RateAllowance&) const = default;
};

struct RateHeaders {
    std::optional<RateAllowance> requests;
    std::optional<RateAllowance> tokens;

    bool operator==(const RateHeaders&) const = default;
};

// Reads "name: value" lines, in any order and case; other headers are ignored. Of several limits of
// one kind the one that is closest to exhaustion counts. Invalid ones (no limit, limits of -1,
// malformed dates) are left out.
RateHeaders parse_rate_headers(std::string_view lines, Instant now);

// The lines that OpenRouter writes into the body of a refusal instead of into its headers
// (error.metadata.headers); empty if there are none.
std::string rate_headers_in_body(std::string_view body);

// "6m0s", "1h23m31s", "12ms", "33.023s", or seconds without a unit. nullopt for anything else.
std::optional<Instant> parse_go_duration(std::string_view text) noexcept;

}  // namespace mana_ai::core
