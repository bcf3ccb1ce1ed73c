#include "mana_ai/core/time/cron.hpp"

#include <algorithm>
#include <array>
#include <cstddef>

namespace mana_ai::core {

namespace {

constexpr std::string_view kBlanks = " \t\r\n";
constexpr std::size_t kMaxExpressionLength = 1000;
constexpr std::uint32_t kEveryHour = (1U << 24) - 1;

// After this many days the calendar, days of the week included, repeats.
constexpr std::int64_t kCalendarCycleDays = 146'097;

constexpr std::array<std::string_view, 12> kMonthNames = {"JAN", "FEB", "MAR", "APR", "MAY", "JUN",
                                                          "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"};
constexpr std::array<std::string_view, 7> kDayNames = {"SUN", "MON", "TUE", "WED",
                                                       "THU", "FRI", "SAT"};

enum class Names { None, Months, Days };

struct FieldRule {
    const char* title;
    int low;
    int high;
    Names names;
};

constexpr std::array<FieldRule, 5> kFields = {{
    {"minute", 0, 59, Names::None},
    {"hour", 0, 23, Names::None},
    {"day of month", 1, 31, Names::None},
    {"month", 1, 12, Names::Months},
    {"day of week", 0, 6, Names::Days},
}};

bool equal_ignoring_case(std::string_view text, std::string_view upper) {
    return std::equal(text.begin(), text.end(), upper.begin(), upper.end(), [](char a, char b) {
        return (a >= 'a' && a <= 'z' ? static_cast<char>(a - 'a' + 'A') : a) == b;
    });
}

template <std::size_t N>
std::optional<int> index_of_name(const std::array<std::string_view, N>& names,
                                 std::string_view text) {
    for (std::size_t i = 0; i < N; ++i) {
        if (equal_ignoring_case(text, names[i])) {
            return static_cast<int>(i);
        }
    }
    return std::nullopt;
}

// Up to four digits, more than any value needs.
std::optional<int> parse_number(std::string_view text) {
    if (text.empty() || text.size() > 4) {
        return std::nullopt;
    }
    int value = 0;
    for (const char c : text) {
        if (c < '0' || c > '9') {
            return std::nullopt;
        }
        value = value * 10 + (c - '0');
    }
    return value;
}

// A number or name within the field's limits; 7 is let through as Sunday.
std::optional<int> parse_value(const FieldRule& rule, std::string_view text) {
    std::optional<int> value = parse_number(text);
    if (!value && rule.names == Names::Months) {
        value = index_of_name(kMonthNames, text);
        return value ? std::optional(*value + 1) : std::nullopt;
    }
    if (!value && rule.names == Names::Days) {
        value = index_of_name(kDayNames, text);
    }
    const int high = rule.names == Names::Days ? 7 : rule.high;
    if (!value || *value < rule.low || *value > high) {
        return std::nullopt;
    }
    return value;
}

// Adds one list item's values to the mask; false if it is not valid.
bool add_item(const FieldRule& rule, std::string_view item, std::uint64_t& mask) {
    int step = 1;
    const std::size_t slash = item.find('/');
    const bool has_step = slash != std::string_view::npos;
    if (has_step) {
        const std::optional<int> parsed = parse_number(item.substr(slash + 1));
        if (!parsed || *parsed == 0) {
            return false;
        }
        step = *parsed;
        item = item.substr(0, slash);
    }

    int first = rule.low;
    int last = rule.high;
    if (item != "*") {
        const std::size_t dash = item.find('-');
        const bool is_range = dash != std::string_view::npos;
        const std::optional<int> from = parse_value(rule, item.substr(0, dash));
        if (!from) {
            return false;
        }
        first = *from;
        if (is_range) {
            const std::optional<int> to = parse_value(rule, item.substr(dash + 1));
            if (!to) {
                return false;
            }
            last = *to == 0 && first > 0 && rule.names == Names::Days ? 7 : *to;
        } else {
            last = has_step ? std::max(first, rule.high) : first;
        }
        if (first > last) {
            return false;
        }
    }
    for (int value = first; value <= last; value += step) {
        mask |= std::uint64_t{1} << (rule.names == Names::Days ? value % 7 : value);
    }
    return true;
}

std::optional<std::uint64_t> parse_field(const FieldRule& rule, std::string_view field) {
    std::uint64_t mask = 0;
    for (;;) {
        const std::size_t comma = field.find(',');
        if (!add_item(rule, field.substr(0, comma), mask)) {
            return std::nullopt;
        }
        if (comma == std::string_view::npos) {
            return mask;
        }
        field.remove_prefix(comma + 1);
    }
}

bool has_bit(std::uint64_t mask, int bit) {
    return ((mask >> bit) & 1) != 0;
}

int day_of_week(std::int64_t unix_day) {
    return static_cast<int>(((unix_day % 7) + 11) % 7);  // 1970-01-01 was a Thursday (4)
}

bool matches_day(const CronSchedule& schedule, const CivilTime& date, std::int64_t unix_day) {
    if (!has_bit(schedule.months, date.month)) {
        return false;
    }
    const bool by_date = has_bit(schedule.days_of_month, date.day);
    const bool by_weekday = has_bit(schedule.days_of_week, day_of_week(unix_day));
    return schedule.either_day ? by_date || by_weekday : by_date && by_weekday;
}

// The first match of a schedule for every hour, looking from the start of the day (or from
// `after`) minute by minute along the real clock. The window is longer than any day.
std::optional<Instant> first_along_clock(const CronSchedule& schedule, const CivilTime& midnight,
                                         Instant after, const TimeZone& zone) {
    const CivilTime local_after = zone.to_local(after);
    const Instant next_minute =
        after - local_after.second * kMicrosPerSecond - local_after.micros + kMicrosPerMinute;
    const Instant start = std::max(zone.from_local(midnight), next_minute);
    const Instant end = start + 26 * kMicrosPerHour;
    for (Instant t = start; t < end; t += kMicrosPerMinute) {
        const CivilTime local = zone.to_local(t);
        if (has_bit(schedule.minutes, local.minute) &&
            matches_day(schedule, local, days_from_civil(local.year, local.month, local.day))) {
            return t;
        }
    }
    return std::nullopt;
}

// The earliest of the day's local times after `after`. All are checked, since a time shifted out of
// a gap may come later than the next one.
std::optional<Instant> first_of_day(const CronSchedule& schedule, CivilTime date, Instant after,
                                    const TimeZone& zone) {
    std::optional<Instant> earliest;
    for (date.hour = 0; date.hour < 24; ++date.hour) {
        if (!has_bit(schedule.hours, date.hour)) {
            continue;
        }
        for (date.minute = 0; date.minute < 60; ++date.minute) {
            if (!has_bit(schedule.minutes, date.minute)) {
                continue;
            }
            const Instant t = zone.from_local(date);
            if (t > after && (!earliest || t < *earliest)) {
                earliest = t;
            }
        }
    }
    return earliest;
}

}  // namespace

std::variant<CronSchedule, CronProblem> parse_cron(std::string_view expression) {
    if (expression.size() > kMaxExpressionLength) {
        return CronProblem{"cron expression is too long"};
    }
    std::array<std::string_view, kFields.size()> fields;
    std::size_t count = 0;
    for (;;) {
        const std::size_t first = expression.find_first_not_of(kBlanks);
        if (first == std::string_view::npos) {
            break;
        }
        expression.remove_prefix(first);
        const std::size_t length = std::min(expression.find_first_of(kBlanks), expression.size());
        if (count == fields.size()) {
            return CronProblem{"cron expression has more than five fields"};
        }
        fields[count++] = expression.substr(0, length);
        expression.remove_prefix(length);
    }
    if (count < fields.size()) {
        return CronProblem{"cron expression has fewer than five fields"};
    }

    std::array<std::uint64_t, kFields.size()> masks{};
    for (std::size_t i = 0; i < fields.size(); ++i) {
        const std::optional<std::uint64_t> mask = parse_field(kFields[i], fields[i]);
        if (!mask) {
            return CronProblem{std::string("cron expression has an invalid ") + kFields[i].title +
                               " field"};
        }
        masks[i] = *mask;
    }
    CronSchedule schedule;
    schedule.minutes = masks[0];
    schedule.hours = static_cast<std::uint32_t>(masks[1]);
    schedule.days_of_month = static_cast<std::uint32_t>(masks[2]);
    schedule.months = static_cast<std::uint32_t>(masks[3]);
    schedule.days_of_week = static_cast<std::uint32_t>(masks[4]);
    schedule.either_day = !fields[2].starts_with('*') && !fields[4].starts_with('*');
    return schedule;
}

std::optional<Instant> next_match(const CronSchedule& schedule, Instant after,
                                  const TimeZone& zone) {
    if (schedule.minutes == 0 || schedule.hours == 0) {
        return std::nullopt;
    }
    const CivilTime local = zone.to_local(after);
    // The day before, too: its last times may have been shifted past midnight.
    std::int64_t unix_day = days_from_civil(local.year, local.month, local.day) - 1;
    const std::int64_t end =
        std::min(unix_day + kCalendarCycleDays + 2, kEndOfIsoInstants / kMicrosPerDay);
    while (unix_day < end) {
        const CivilTime date = civil_from_instant_utc(unix_day * kMicrosPerDay);
        if (!has_bit(schedule.months, date.month)) {
            unix_day += days_in_month(date.year, date.month) - date.day + 1;
            continue;
        }
        if (matches_day(schedule, date, unix_day)) {
            const std::optional<Instant> match =
                schedule.hours == kEveryHour ? first_along_clock(schedule, date, after, zone)
                                             : first_of_day(schedule, date, after, zone);
            if (match) {
                return *match < kEndOfIsoInstants ? match : std::nullopt;
            }
        }
        ++unix_day;
    }
    return std::nullopt;
}

}  // namespace mana_ai::core
