// When a mission runs next. docs/contract/data.md, Cadence.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "mana_ai/core/text/json.hpp"
#include "mana_ai/core/time/instant.hpp"
#include "mana_ai/core/time/time_zone.hpp"

namespace mana_ai::core {

// A cadence as far as its rules check it. Texts belong to what it was read from.
struct Cadence {
    enum class Value { Missing, Object, Other } value = Value::Missing;  // Missing: also null
    std::string_view kind;
    // Whole numbers, however they are written (60 or 60.0); nullopt for anything else.
    std::optional<std::int64_t> every_minutes, at_hour, at_minute, day_of_week;
    std::optional<std::string_view> expression;  // nullopt: not a string
};

// What is wrong with the cadence, in English, without quoting it; nullopt = it is valid. It names
// all that is wrong at every time and in every zone.
std::optional<std::string> cadence_problem(const Cadence& cadence, Instant now);

// The number that a JSON text represents, if it is a whole one.
std::optional<std::int64_t> whole_number(std::string_view json_number) noexcept;

struct NextRun {
    std::optional<Instant> at;
    std::string problem;  // English, quotes nothing of the cadence; empty = none

    bool operator==(const NextRun&) const = default;
};

// The next run strictly after `after`, by the wall clock of `zone`. Manual and
// onChange have neither instant nor problem; an invalid cadence has a problem instead of an
// instant. Numbers may be written as integral floats (60.0). For clock changes see cron.hpp. Throws
// only what `zone` throws.
NextRun next_run(const Json& cadence, Instant after, const TimeZone& zone);

}  // namespace mana_ai::core
