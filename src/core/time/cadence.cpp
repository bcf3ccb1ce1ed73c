#include "mana_ai/core/time/cadence.hpp"

#include <cmath>
#include <cstdint>
#include <string_view>
#include <variant>

#include "mana_ai/core/time/cron.hpp"

namespace mana_ai::core {

namespace {

constexpr std::uint32_t kAllMonths = 0x1FFE;            // bits 1-12
constexpr std::uint32_t kAllDaysOfMonth = 0xFFFF'FFFE;  // bits 1-31
constexpr std::uint32_t kAllDaysOfWeek = 0x7F;          // bits 0-6

NextRun problem(std::string text) {
    return {std::nullopt, std::move(text)};
}

// A member that is a whole number, however it is written (60 or 60.0).
std::optional<std::int64_t> whole_number(const Json& object, const char* key) {
    const auto member = object.find(key);
    if (member == object.end()) {
        return std::nullopt;
    }
    if (member->is_number_unsigned()) {
        const auto value = member->get<std::uint64_t>();
        return value <= INT64_MAX ? std::optional(static_cast<std::int64_t>(value)) : std::nullopt;
    }
    if (member->is_number_integer()) {
        return member->get<std::int64_t>();
    }
    if (member->is_number_float()) {
        constexpr double kExactlyRepresentable = 9007199254740992.0;  // 2^53
        const auto value = member->get<double>();
        if (std::trunc(value) == value && std::abs(value) <= kExactlyRepresentable) {
            return static_cast<std::int64_t>(value);
        }
    }
    return std::nullopt;
}

std::optional<int> whole_number_up_to(const Json& object, const char* key, int high) {
    const std::optional<std::int64_t> value = whole_number(object, key);
    if (!value || *value < 0 || *value > high) {
        return std::nullopt;
    }
    return static_cast<int>(*value);
}

NextRun next_interval(const Json& cadence, Instant after) {
    const std::optional<std::int64_t> minutes = whole_number(cadence, "everyMinutes");
    if (!minutes || *minutes <= 0) {
        return problem("\"everyMinutes\" of the cadence must be a positive whole number");
    }
    if (*minutes > (kEndOfIsoInstants - 1 - after) / kMicrosPerMinute) {
        return problem("\"everyMinutes\" of the cadence is too large");
    }
    return {after + *minutes * kMicrosPerMinute, {}};
}

NextRun next_of_schedule(const CronSchedule& schedule, Instant after, const TimeZone& zone) {
    if (const std::optional<Instant> at = next_match(schedule, after, zone)) {
        return {at, {}};
    }
    return problem("cadence never matches again");
}

NextRun next_daily(const Json& cadence, Instant after, const TimeZone& zone) {
    const std::optional<int> hour = whole_number_up_to(cadence, "atHour", 23);
    if (!hour) {
        return problem("\"atHour\" of the cadence must be a whole number from 0 to 23");
    }
    const std::optional<int> minute = whole_number_up_to(cadence, "atMinute", 59);
    if (!minute) {
        return problem("\"atMinute\" of the cadence must be a whole number from 0 to 59");
    }
    return next_of_schedule({.minutes = std::uint64_t{1} << *minute,
                             .hours = 1U << *hour,
                             .days_of_month = kAllDaysOfMonth,
                             .months = kAllMonths,
                             .days_of_week = kAllDaysOfWeek},
                            after, zone);
}

NextRun next_weekly(const Json& cadence, Instant after, const TimeZone& zone) {
    const std::optional<int> day = whole_number_up_to(cadence, "dayOfWeek", 6);
    if (!day) {
        return problem("\"dayOfWeek\" of the cadence must be a whole number from 0 to 6");
    }
    const std::optional<int> hour = whole_number_up_to(cadence, "atHour", 23);
    if (!hour) {
        return problem("\"atHour\" of the cadence must be a whole number from 0 to 23");
    }
    return next_of_schedule({.minutes = 1,
                             .hours = 1U << *hour,
                             .days_of_month = kAllDaysOfMonth,
                             .months = kAllMonths,
                             .days_of_week = 1U << *day},
                            after, zone);
}

NextRun next_cron(const Json& cadence, Instant after, const TimeZone& zone) {
    const auto expression = cadence.find("expression");
    if (expression == cadence.end() || !expression->is_string()) {
        return problem("\"expression\" of the cadence must be a string");
    }
    const auto parsed = parse_cron(expression->get_ref<const std::string&>());
    if (const auto* invalid = std::get_if<CronProblem>(&parsed)) {
        return problem(invalid->text);
    }
    return next_of_schedule(std::get<CronSchedule>(parsed), after, zone);
}

}  // namespace

NextRun next_run(const Json& cadence, Instant after, const TimeZone& zone) {
    if (!cadence.is_object()) {
        return problem(cadence.is_null() ? "cadence is missing" : "cadence must be an object");
    }
    const std::string_view kind = string_or(cadence, "kind", "");
    if (kind == "manual") {
        return {};
    }
    // Also keeps PostgreSQL's infinities away from the calendar.
    if (after < kFirstIsoInstant || after >= kEndOfIsoInstants) {
        return problem("time to find the next run for is out of range");
    }
    if (kind == "interval") {
        return next_interval(cadence, after);
    }
    if (kind == "daily") {
        return next_daily(cadence, after, zone);
    }
    if (kind == "weekly") {
        return next_weekly(cadence, after, zone);
    }
    if (kind == "cron") {
        return next_cron(cadence, after, zone);
    }
    return problem("\"kind\" of the cadence is not known");
}

}  // namespace mana_ai::core
