#include "mana_ai/core/time/cadence.hpp"

#include <cmath>
#include <cstdint>
#include <string_view>
#include <utility>
#include <variant>

#include "mana_ai/core/time/cron.hpp"
#include "mana_ai/core/time/wake.hpp"

namespace mana_ai::core {

namespace {

constexpr std::uint32_t kAllMonths = 0x1FFE;            // bits 1-12
constexpr std::uint32_t kAllDaysOfMonth = 0xFFFF'FFFE;  // bits 1-31
constexpr std::uint32_t kAllDaysOfWeek = 0x7F;          // bits 0-6
constexpr char kNeverMatches[] = "cadence never matches again";

NextRun problem(std::string text) {
    return {std::nullopt, std::move(text)};
}

std::optional<std::int64_t> whole_number(const Json& number) {
    if (number.is_number_unsigned()) {
        const auto value = number.get<std::uint64_t>();
        return value <= INT64_MAX ? std::optional(static_cast<std::int64_t>(value)) : std::nullopt;
    }
    if (number.is_number_integer()) {
        return number.get<std::int64_t>();
    }
    if (number.is_number_float()) {
        constexpr double kExactlyRepresentable = 9007199254740992.0;  // 2^53
        const auto value = number.get<double>();
        if (std::trunc(value) == value && std::abs(value) <= kExactlyRepresentable) {
            return static_cast<std::int64_t>(value);
        }
    }
    return std::nullopt;
}

std::optional<std::int64_t> whole_number(const Json& object, const char* key) {
    const auto member = object.find(key);
    return member == object.end() ? std::nullopt : whole_number(*member);
}

Cadence read_cadence(const Json& json) {
    Cadence cadence;
    if (json.is_null()) {
        return cadence;
    }
    cadence.value = json.is_object() ? Cadence::Value::Object : Cadence::Value::Other;
    if (!json.is_object()) {
        return cadence;
    }
    cadence.kind = string_or(json, "kind", "");
    cadence.every_minutes = whole_number(json, "everyMinutes");
    cadence.at_hour = whole_number(json, "atHour");
    cadence.at_minute = whole_number(json, "atMinute");
    cadence.day_of_week = whole_number(json, "dayOfWeek");
    if (const auto text = json.find("expression"); text != json.end() && text->is_string()) {
        cadence.expression = text->get_ref<const std::string&>();
    }
    return cadence;
}

// Manual, or when inputs change.
bool has_no_time(const Cadence& cadence) noexcept {
    return cadence.kind == "manual" || cadence.kind == kOnChange;
}

bool is_within(const std::optional<std::int64_t>& value, std::int64_t low, std::int64_t high) {
    return value && *value >= low && *value <= high;
}

// Times of day on every day of the mask. Only with valid numbers.
CronSchedule at_time_of_day(std::int64_t hour, std::int64_t minute, std::uint32_t days_of_week) {
    return {.minutes = std::uint64_t{1} << minute,
            .hours = 1U << hour,
            .days_of_month = kAllDaysOfMonth,
            .months = kAllMonths,
            .days_of_week = days_of_week};
}

// Such as 30 February. Other days occur eventually, also on a given day of the week.
bool never_matches(const CronSchedule& schedule) {
    if (schedule.either_day) {
        return false;
    }
    constexpr int kLeapYear = 2000;
    for (int month = 1; month <= 12; ++month) {
        const std::uint32_t days = (std::uint32_t{2} << days_in_month(kLeapYear, month)) - 2;
        if ((schedule.months >> month & 1) != 0 && (schedule.days_of_month & days) != 0) {
            return false;
        }
    }
    return true;
}

std::optional<std::string> cron_problem(const Cadence& cadence) {
    if (!cadence.expression) {
        return "\"expression\" of the cadence must be a string";
    }
    const auto parsed = parse_cron(*cadence.expression);
    if (const auto* invalid = std::get_if<CronProblem>(&parsed)) {
        return invalid->text;
    }
    if (never_matches(std::get<CronSchedule>(parsed))) {
        return kNeverMatches;
    }
    return std::nullopt;
}

NextRun next_of_schedule(const CronSchedule& schedule, Instant after, const TimeZone& zone) {
    if (const std::optional<Instant> at = next_match(schedule, after, zone)) {
        return {at, {}};
    }
    return problem(kNeverMatches);
}

}  // namespace

std::optional<std::int64_t> whole_number(std::string_view json_number) noexcept {
    const std::optional<Json> parsed = parse_json(json_number);
    return parsed ? whole_number(*parsed) : std::nullopt;
}

std::optional<std::string> cadence_problem(const Cadence& cadence, Instant now) {
    switch (cadence.value) {
        case Cadence::Value::Missing:
            return "cadence is missing";
        case Cadence::Value::Other:
            return "cadence must be an object";
        case Cadence::Value::Object:
            break;
    }
    if (has_no_time(cadence)) {
        return std::nullopt;
    }
    if (cadence.kind == "interval") {
        if (!cadence.every_minutes || *cadence.every_minutes <= 0) {
            return "\"everyMinutes\" of the cadence must be a positive whole number";
        }
        if (*cadence.every_minutes > (kEndOfIsoInstants - 1 - now) / kMicrosPerMinute) {
            return "\"everyMinutes\" of the cadence is too large";
        }
        return std::nullopt;
    }
    if (cadence.kind == "cron") {
        return cron_problem(cadence);
    }
    const bool daily = cadence.kind == "daily";
    if (!daily && cadence.kind != "weekly") {
        return "\"kind\" of the cadence is not known";
    }
    if (!daily && !is_within(cadence.day_of_week, 0, 6)) {
        return "\"dayOfWeek\" of the cadence must be a whole number from 0 to 6";
    }
    if (!is_within(cadence.at_hour, 0, 23)) {
        return "\"atHour\" of the cadence must be a whole number from 0 to 23";
    }
    if (daily && !is_within(cadence.at_minute, 0, 59)) {
        return "\"atMinute\" of the cadence must be a whole number from 0 to 59";
    }
    return std::nullopt;
}

NextRun next_run(const Json& json, Instant after, const TimeZone& zone) {
    const Cadence cadence = read_cadence(json);
    const bool is_untimed = has_no_time(cadence);
    // Also keeps PostgreSQL's infinities away from the calendar.
    if (cadence.value == Cadence::Value::Object && !is_untimed &&
        (after < kFirstIsoInstant || after >= kEndOfIsoInstants)) {
        return problem("time to find the next run for is out of range");
    }
    if (auto text = cadence_problem(cadence, after)) {
        return problem(std::move(*text));
    }
    if (is_untimed) {
        return {};
    }
    if (cadence.kind == "interval") {
        return {after + *cadence.every_minutes * kMicrosPerMinute, {}};
    }
    if (cadence.kind == "cron") {
        const auto schedule = parse_cron(*cadence.expression);
        return next_of_schedule(std::get<CronSchedule>(schedule), after, zone);
    }
    if (cadence.kind == "daily") {
        return next_of_schedule(
            at_time_of_day(*cadence.at_hour, *cadence.at_minute, kAllDaysOfWeek), after, zone);
    }
    return next_of_schedule(at_time_of_day(*cadence.at_hour, 0, 1U << *cadence.day_of_week), after,
                            zone);
}

}  // namespace mana_ai::core
