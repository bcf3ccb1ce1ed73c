// Points in time and their ISO-8601 form. docs/contract/data.md, Field-level last-writer-wins.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace mana_ai::core {

// Microseconds since 1970-01-01T00:00:00Z; also used for durations.
using Instant = std::int64_t;

inline constexpr Instant kMicrosPerSecond = 1'000'000;
inline constexpr Instant kMicrosPerMinute = 60 * kMicrosPerSecond;
inline constexpr Instant kMicrosPerHour = 60 * kMicrosPerMinute;
inline constexpr Instant kMicrosPerDay = 24 * kMicrosPerHour;

// The instants that the ISO form with a four-digit year can express, without year 0, which
// PostgreSQL does not have: from 0001-01-01T00:00:00Z inclusive to 10000-01-01T00:00:00Z exclusive.
inline constexpr Instant kFirstIsoInstant = -719'162 * kMicrosPerDay;
inline constexpr Instant kEndOfIsoInstants = 2'932'897 * kMicrosPerDay;

// A wall-clock time of the proleptic Gregorian calendar, without a zone.
struct CivilTime {
    int year = 1970;
    int month = 1;  // 1-12
    int day = 1;    // 1-31
    int hour = 0;
    int minute = 0;
    int second = 0;
    std::int64_t micros = 0;  // fraction of the second, 0-999999

    bool operator==(const CivilTime&) const = default;
};

// YYYY-MM-DDTHH:MM[:SS[.fraction]] followed by Z or ±HH:MM; a real calendar date; digits beyond
// microseconds are cut. nullopt for everything else. Neither allocates nor throws.
std::optional<Instant> parse_instant(std::string_view text) noexcept;

// "2026-04-15T00:00:00.000Z", as JavaScript's toISOString (so years beyond 0-9999 get a sign and
// six digits); microseconds are rounded down to milliseconds.
std::string to_iso_millis(Instant instant);

// The UTC wall clock at any instant.
CivilTime civil_from_instant_utc(Instant instant) noexcept;

// The inverse. The date must be real and the year within ±290000, else the result is unspecified.
Instant instant_from_civil_utc(const CivilTime& civil) noexcept;

// Days since 1970-01-01 of a date; also right for days beyond the month's end.
std::int64_t days_from_civil(std::int64_t year, int month, int day) noexcept;

// Number of days of a month (1-12), leap years considered.
int days_in_month(std::int64_t year, int month) noexcept;

}  // namespace mana_ai::core
