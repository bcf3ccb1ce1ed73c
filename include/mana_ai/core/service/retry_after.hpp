// The Retry-After header. docs/contract/tick.md, Model wire format; RFC 9110, 5.6.7 and 10.2.3.
#pragma once

#include <optional>
#include <string_view>

#include "mana_ai/core/time/instant.hpp"

namespace mana_ai::core {

// Delays are cut to this, so that a nonsensical header can neither overflow nor stop a mission for
// ever.
inline constexpr Instant kMaxRetryAfter = kMicrosPerDay;

// The delay in microseconds, 0 to kMaxRetryAfter. The value is a number of seconds (a fraction is
// accepted) or a date in one of HTTP's three forms; a date in the past is a delay of 0.
// nullopt: empty, or not one of these.
std::optional<Instant> parse_retry_after(std::string_view header, Instant now) noexcept;

// What Gemini says in the body of a refusal instead of in the header: `retryDelay`, "47s", of one
// of the error's details.
std::optional<Instant> retry_after_in_body(std::string_view body);

}  // namespace mana_ai::core
