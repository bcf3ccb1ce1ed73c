// When a change of a mission's inputs makes it due. docs/contract/data.md, Waking on data.
//
// Pure functions of instants, so that they can be tested with any clock.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "mana_ai/core/text/json.hpp"
#include "mana_ai/core/time/instant.hpp"

namespace mana_ai::core {

inline constexpr char kOnChange[] = "onChange";

// In microseconds.
struct WakeRule {
    Instant debounce = 0;      // without a further change
    Instant min_interval = 0;  // after the last plan
};

inline constexpr Instant kLongestDebounce = 24 * kMicrosPerHour;
inline constexpr Instant kShortestWakeInterval = kMicrosPerMinute;
inline constexpr Instant kLongestWakeInterval = 7 * 24 * kMicrosPerHour;

bool is_on_change(const Json& cadence) noexcept;

// The rule of such a cadence. What is not a number is as in `otherwise`; numbers need not be whole,
// and what is out of bounds is brought within them.
WakeRule wake_rule(const Json& cadence, const WakeRule& otherwise);

// Which of the mission's inputs such a cadence names, by their ids; empty = all.
std::vector<std::string> wake_inputs(const Json& cadence);

struct InputChanges {
    Instant first = 0;  // since the last plan
    Instant last = 0;
    std::optional<Instant> planned_at;  // the last plan
};

// A further change begins the debounce again, but at most until four times its length after the
// first one: a storm must not postpone the plan for ever.
Instant wake_at(const WakeRule& rule, const InputChanges& changes) noexcept;

// `woken`: when missions of the user were woken, in ascending order. When another one may be, if
// there is a limit for any hour; 0 = none.
Instant after_limit(std::span<const Instant> woken, int limit, Instant now) noexcept;

}  // namespace mana_ai::core
