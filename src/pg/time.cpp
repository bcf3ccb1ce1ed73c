#include <string>

#include "mana_ai/pg/guard.hpp"
#include "mana_ai/pg/time.hpp"

extern "C" {
#include "portability/instr_time.h"
#include "utils/datetime.h"
}

namespace mana_ai::pg {

core::Instant monotonic_now() {
    instr_time now;
    INSTR_TIME_SET_CURRENT(now);
    return static_cast<core::Instant>(INSTR_TIME_GET_MICROSEC(now));
}

PostgresTimeZone::PostgresTimeZone(const std::string& name)
    : zone_(guarded([&name] { return pg_tzset(name.c_str()); })) {
    if (zone_ == nullptr)
        throw make_error(ERRCODE_INVALID_PARAMETER_VALUE,
                         "time zone \"" + name + "\" not recognized");
}

core::CivilTime PostgresTimeZone::to_local(core::Instant instant) const {
    int64_t seconds = instant / core::kMicrosPerSecond;
    int64_t micros = instant % core::kMicrosPerSecond;
    if (micros < 0) {
        micros += core::kMicrosPerSecond;
        seconds--;
    }
    const auto time = static_cast<pg_time_t>(seconds);
    const pg_tm* local = guarded([&] { return pg_localtime(&time, zone_); });
    core::CivilTime civil{};
    if (local == nullptr)
        return core::civil_from_instant_utc(instant);
    civil.year = local->tm_year + 1900;
    civil.month = local->tm_mon + 1;
    civil.day = local->tm_mday;
    civil.hour = local->tm_hour;
    civil.minute = local->tm_min;
    civil.second = local->tm_sec;
    civil.micros = micros;
    return civil;
}

namespace {

bool same_wall_clock(const core::CivilTime& a, const core::CivilTime& b) {
    return a.year == b.year && a.month == b.month && a.day == b.day && a.hour == b.hour &&
           a.minute == b.minute && a.second == b.second;
}

}  // namespace

core::Instant PostgresTimeZone::from_local(const core::CivilTime& local) const {
    pg_tm broken{};
    broken.tm_year = local.year;
    broken.tm_mon = local.month;
    broken.tm_mday = local.day;
    broken.tm_hour = local.hour;
    broken.tm_min = local.minute;
    broken.tm_sec = local.second;
    const int west_of_utc = guarded([&] { return DetermineTimeZoneOffset(&broken, zone_); });
    const core::Instant as_if_utc = core::instant_from_civil_utc(local);
    const core::Instant instant = as_if_utc + int64_t{west_of_utc} * core::kMicrosPerSecond;
    // Of two instants with this wall clock time PostgreSQL takes the later one, we take the first,
    // so that a daily run does not move by an hour in the night of the clock change.
    const core::Instant day_before = instant - core::kMicrosPerDay;
    const core::Instant offset_before =
        core::instant_from_civil_utc(to_local(day_before)) - day_before;
    const core::Instant earlier = as_if_utc - offset_before;
    return earlier < instant && same_wall_clock(to_local(earlier), local) ? earlier : instant;
}

}  // namespace mana_ai::pg
