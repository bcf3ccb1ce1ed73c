#include "mana_ai/core/time/instant.hpp"

#include <cstddef>
#include <cstdio>

namespace mana_ai::core {

namespace {

// The number that `count` digits at `at` form; -1 if one of them is not a digit. The caller has
// checked the length.
int digits(std::string_view text, std::size_t at, std::size_t count) noexcept {
    int value = 0;
    for (std::size_t i = at; i < at + count; ++i) {
        const unsigned digit = static_cast<unsigned char>(text[i]) - unsigned{'0'};
        if (digit > 9) {
            return -1;
        }
        value = value * 10 + static_cast<int>(digit);
    }
    return value;
}

bool in_range(int value, int low, int high) noexcept {
    return value >= low && value <= high;
}

struct DayAndRest {
    std::int64_t day;
    Instant rest;  // 0 to kMicrosPerDay - 1
};

DayAndRest split_day(Instant instant) noexcept {
    std::int64_t day = instant / kMicrosPerDay;
    Instant rest = instant % kMicrosPerDay;
    if (rest < 0) {
        rest += kMicrosPerDay;
        --day;
    }
    return {day, rest};
}

}  // namespace

// Both conversions count in eras of 400 years that begin on 1 March, so that the leap day is the
// last day of its year.
std::int64_t days_from_civil(std::int64_t year, int month, int day) noexcept {
    year -= month <= 2 ? 1 : 0;
    const std::int64_t era = (year >= 0 ? year : year - 399) / 400;
    const std::int64_t year_of_era = year - era * 400;
    const std::int64_t day_of_year = (153 * (month + (month > 2 ? -3 : 9)) + 2) / 5 + day - 1;
    const std::int64_t day_of_era =
        year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    return era * 146'097 + day_of_era - 719'468;
}

int days_in_month(std::int64_t year, int month) noexcept {
    constexpr int kDays[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    const bool leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
    return month == 2 && leap ? 29 : kDays[month - 1];
}

std::optional<Instant> parse_instant(std::string_view text) noexcept {
    // The shortest form is YYYY-MM-DDTHH:MMZ.
    if (text.size() < 17 || text[4] != '-' || text[7] != '-' || text[10] != 'T' ||
        text[13] != ':') {
        return std::nullopt;
    }
    const int year = digits(text, 0, 4);
    const int month = digits(text, 5, 2);
    const int day = digits(text, 8, 2);
    const int hour = digits(text, 11, 2);
    const int minute = digits(text, 14, 2);
    if (year < 0 || !in_range(month, 1, 12) || !in_range(day, 1, days_in_month(year, month)) ||
        !in_range(hour, 0, 23) || !in_range(minute, 0, 59)) {
        return std::nullopt;
    }

    std::size_t at = 16;
    int second = 0;
    std::int64_t micros = 0;
    if (text[at] == ':') {
        if (text.size() < at + 4) {  // two digits and a zone must follow
            return std::nullopt;
        }
        second = digits(text, at + 1, 2);
        if (!in_range(second, 0, 59)) {
            return std::nullopt;
        }
        at += 3;
        if (text[at] == '.') {
            const std::size_t first = ++at;
            std::int64_t unit = kMicrosPerSecond / 10;
            for (; at < text.size() && text[at] >= '0' && text[at] <= '9'; ++at) {
                micros += unit * (text[at] - '0');
                unit /= 10;  // reaches 0 after six digits, which cuts the rest
            }
            if (at == first || at == text.size()) {
                return std::nullopt;
            }
        }
    }

    Instant offset = 0;
    const std::size_t left = text.size() - at;
    if (text[at] == 'Z') {
        if (left != 1) {
            return std::nullopt;
        }
    } else if (text[at] == '+' || text[at] == '-') {
        if (left != 6 || text[at + 3] != ':') {
            return std::nullopt;
        }
        const int offset_hour = digits(text, at + 1, 2);
        const int offset_minute = digits(text, at + 4, 2);
        if (!in_range(offset_hour, 0, 23) || !in_range(offset_minute, 0, 59)) {
            return std::nullopt;
        }
        offset = offset_hour * kMicrosPerHour + offset_minute * kMicrosPerMinute;
        if (text[at] == '-') {
            offset = -offset;
        }
    } else {
        return std::nullopt;
    }

    return days_from_civil(year, month, day) * kMicrosPerDay + hour * kMicrosPerHour +
           minute * kMicrosPerMinute + second * kMicrosPerSecond + micros - offset;
}

CivilTime civil_from_instant_utc(Instant instant) noexcept {
    const auto [unix_day, rest] = split_day(instant);
    const std::int64_t shifted = unix_day + 719'468;
    const std::int64_t era = (shifted >= 0 ? shifted : shifted - 146'096) / 146'097;
    const std::int64_t day_of_era = shifted - era * 146'097;
    const std::int64_t year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36'524 - day_of_era / 146'096) / 365;
    const std::int64_t day_of_year =
        day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    const std::int64_t shifted_month = (5 * day_of_year + 2) / 153;

    CivilTime civil;
    civil.day = static_cast<int>(day_of_year - (153 * shifted_month + 2) / 5 + 1);
    civil.month = static_cast<int>(shifted_month < 10 ? shifted_month + 3 : shifted_month - 9);
    civil.year = static_cast<int>(year_of_era + era * 400 + (civil.month <= 2 ? 1 : 0));
    civil.hour = static_cast<int>(rest / kMicrosPerHour);
    civil.minute = static_cast<int>(rest / kMicrosPerMinute % 60);
    civil.second = static_cast<int>(rest / kMicrosPerSecond % 60);
    civil.micros = rest % kMicrosPerSecond;
    return civil;
}

Instant instant_from_civil_utc(const CivilTime& civil) noexcept {
    return days_from_civil(civil.year, civil.month, civil.day) * kMicrosPerDay +
           civil.hour * kMicrosPerHour + civil.minute * kMicrosPerMinute +
           civil.second * kMicrosPerSecond + civil.micros;
}

std::string to_iso_millis(Instant instant) {
    const CivilTime civil = civil_from_instant_utc(instant);
    const char* year_format = "%04d";
    if (civil.year < 0 || civil.year > 9999) {
        year_format = "%+07d";
    }
    char year[16];
    std::snprintf(year, sizeof year, year_format, civil.year);
    char text[96];
    const int length = std::snprintf(text, sizeof text, "%s-%02d-%02dT%02d:%02d:%02d.%03dZ", year,
                                     civil.month, civil.day, civil.hour, civil.minute, civil.second,
                                     static_cast<int>(civil.micros / 1000));
    return {text, static_cast<std::size_t>(length)};
}

}  // namespace mana_ai::core
