// When a mission runs next. docs/contract/data.md, Cadence.
#pragma once

#include <optional>
#include <string>

#include "mana_ai/core/text/json.hpp"
#include "mana_ai/core/time/instant.hpp"
#include "mana_ai/core/time/time_zone.hpp"

namespace mana_ai::core {

struct NextRun {
    std::optional<Instant> at;
    std::string problem;  // English, quotes nothing of the cadence; empty = none

    bool operator==(const NextRun&) const = default;
};

// The next run strictly after `after`, by the wall clock of `zone`. Manual has neither instant nor
// problem; a cadence that cannot be followed has a problem instead of an instant. Numbers may be
// written as integral floats (60.0). How clock changes are treated: see cron.hpp. Throws only what
// `zone` throws.
NextRun next_run(const Json& cadence, Instant after, const TimeZone& zone);

}  // namespace mana_ai::core
