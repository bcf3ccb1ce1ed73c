// Five-field cron expressions: minute hour day-of-month month day-of-week.
// docs/contract/data.md, Cadence.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <variant>

#include "mana_ai/core/time/instant.hpp"
#include "mana_ai/core/time/time_zone.hpp"

namespace mana_ai::core {

// Sets of local times, as bit masks: bit n is set if the value n matches.
struct CronSchedule {
    std::uint64_t minutes = 0;        // 0-59
    std::uint32_t hours = 0;          // 0-23
    std::uint32_t days_of_month = 0;  // 1-31
    std::uint32_t months = 0;         // 1-12
    std::uint32_t days_of_week = 0;   // 0-6, 0 = Sunday
    // True if both day fields are restricted: then a day matches when either of them does.
    // False: both must match. As in Vixie cron and pg_cron, a field that begins with `*` (so also
    // `*/2`) counts as not restricted.
    bool either_day = false;
};

// What is wrong with an expression, in English; does not quote it.
struct CronProblem {
    std::string text;
};

// Fields are separated by blanks. A field is a list (`,`) of `*`, a value or a range `a-b`, each
// with an optional step `/n` (`a/n` means from a to the field's end). Months and days of the week
// may be named by three letters in any case; 7 is Sunday too, also as a range's end (`FRI-SUN`).
std::variant<CronSchedule, CronProblem> parse_cron(std::string_view expression);

// The first match after `after`; nullopt if there is none at all (30 February) or none before the
// year 10000. `after` must be at least kFirstIsoInstant and less than kEndOfIsoInstants.
//
// At clock changes a schedule for every hour follows the real clock: it does not make up for a
// skipped hour and runs through a repeated hour twice. Any other schedule matches each of its local
// times exactly once: a skipped one at the shifted time (02:30 at 03:30), a repeated one at its
// first occurrence.
std::optional<Instant> next_match(const CronSchedule& schedule, Instant after,
                                  const TimeZone& zone);

}  // namespace mana_ai::core
