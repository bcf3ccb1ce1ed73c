#include "mana_ai/core/service/retry_after.hpp"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>

#include "mana_ai/core/service/rate_headers.hpp"
#include "mana_ai/core/text/json.hpp"

namespace mana_ai::core {

namespace {

constexpr std::array<std::string_view, 12> kMonths = {"Jan", "Feb", "Mar", "Apr", "May", "Jun",
                                                      "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"};
constexpr std::array<std::string_view, 7> kShortDays = {"Mon", "Tue", "Wed", "Thu",
                                                        "Fri", "Sat", "Sun"};
constexpr std::array<std::string_view, 7> kLongDays = {
    "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"};

// Reads a fixed form from left to right; after the first mismatch everything fails.
class Reader {
 public:
    explicit Reader(std::string_view text) : rest_(text) {}

    bool literal(std::string_view expected) {
        ok_ = ok_ && rest_.starts_with(expected);
        if (ok_) {
            rest_.remove_prefix(expected.size());
        }
        return ok_;
    }

    // The position of the word that comes next.
    template <std::size_t N>
    int one_of(const std::array<std::string_view, N>& words) {
        for (std::size_t i = 0; ok_ && i < N; ++i) {
            if (rest_.starts_with(words[i])) {
                rest_.remove_prefix(words[i].size());
                return static_cast<int>(i);
            }
        }
        ok_ = false;
        return 0;
    }

    int number(std::size_t digit_count, bool first_may_be_blank = false) {
        ok_ = ok_ && rest_.size() >= digit_count;
        int value = 0;
        for (std::size_t i = 0; ok_ && i < digit_count; ++i) {
            const char c = rest_[i];
            if (i == 0 && first_may_be_blank && c == ' ') {
                continue;
            }
            ok_ = c >= '0' && c <= '9';
            value = value * 10 + (c - '0');
        }
        if (ok_) {
            rest_.remove_prefix(digit_count);
        }
        return value;
    }

    void clock(CivilTime& civil) {
        civil.hour = number(2);
        literal(":");
        civil.minute = number(2);
        literal(":");
        civil.second = number(2);
    }

    bool at_end() const { return ok_ && rest_.empty(); }

 private:
    std::string_view rest_;
    bool ok_ = true;
};

// Sun, 06 Nov 1994 08:49:37 GMT
bool read_imf_fixdate(std::string_view text, CivilTime& civil) {
    Reader reader(text);
    reader.one_of(kShortDays);
    reader.literal(", ");
    civil.day = reader.number(2);
    reader.literal(" ");
    civil.month = reader.one_of(kMonths) + 1;
    reader.literal(" ");
    civil.year = reader.number(4);
    reader.literal(" ");
    reader.clock(civil);
    reader.literal(" GMT");
    return reader.at_end();
}

// Sunday, 06-Nov-94 08:49:37 GMT
bool read_rfc850_date(std::string_view text, int this_year, CivilTime& civil) {
    Reader reader(text);
    reader.one_of(kLongDays);
    reader.literal(", ");
    civil.day = reader.number(2);
    reader.literal("-");
    civil.month = reader.one_of(kMonths) + 1;
    reader.literal("-");
    civil.year = this_year - this_year % 100 + reader.number(2);
    reader.literal(" ");
    reader.clock(civil);
    reader.literal(" GMT");
    // RFC 9110: what seems to be more than 50 years ahead is the most recent such year.
    if (civil.year > this_year + 50) {
        civil.year -= 100;
    }
    return reader.at_end();
}

// Sun Nov  6 08:49:37 1994
bool read_asctime_date(std::string_view text, CivilTime& civil) {
    Reader reader(text);
    reader.one_of(kShortDays);
    reader.literal(" ");
    civil.month = reader.one_of(kMonths) + 1;
    reader.literal(" ");
    civil.day = reader.number(2, /*first_may_be_blank=*/true);
    reader.literal(" ");
    reader.clock(civil);
    reader.literal(" ");
    civil.year = reader.number(4);
    return reader.at_end();
}

// The second 60 is allowed: a leap second.
bool is_real(const CivilTime& civil) {
    return civil.day >= 1 && civil.day <= days_in_month(civil.year, civil.month) &&
           civil.hour <= 23 && civil.minute <= 59 && civil.second <= 60;
}

// Digits, perhaps with a fraction, cut to the maximum.
std::optional<Instant> read_seconds(std::string_view text) {
    Instant delay = 0;
    std::size_t at = 0;
    for (; at < text.size() && text[at] >= '0' && text[at] <= '9'; ++at) {
        delay = std::min(delay * 10 + (text[at] - '0') * kMicrosPerSecond, kMaxRetryAfter);
    }
    if (at == 0) {
        return std::nullopt;
    }
    if (at < text.size() && text[at] == '.') {
        const std::size_t first = ++at;
        Instant unit = kMicrosPerSecond / 10;
        for (; at < text.size() && text[at] >= '0' && text[at] <= '9'; ++at) {
            delay += (text[at] - '0') * unit;
            unit /= 10;
        }
        if (at == first) {
            return std::nullopt;
        }
    }
    if (at != text.size()) {
        return std::nullopt;
    }
    return std::min(delay, kMaxRetryAfter);
}

}  // namespace

std::optional<Instant> parse_retry_after(std::string_view header, Instant now) noexcept {
    constexpr std::string_view kBlanks = " \t\r\n";
    const std::size_t first = header.find_first_not_of(kBlanks);
    if (first == std::string_view::npos) {
        return std::nullopt;
    }
    header = header.substr(first, header.find_last_not_of(kBlanks) - first + 1);

    if (const std::optional<Instant> seconds = read_seconds(header)) {
        return seconds;
    }
    // The clock has a plausible year in practice; the limits only keep the sums from overflowing.
    now = std::clamp(now, kFirstIsoInstant, kEndOfIsoInstants);
    CivilTime civil;
    if (!read_imf_fixdate(header, civil) &&
        !read_rfc850_date(header, civil_from_instant_utc(now).year, civil) &&
        !read_asctime_date(header, civil)) {
        return std::nullopt;
    }
    if (!is_real(civil)) {
        return std::nullopt;
    }
    return std::clamp<Instant>(instant_from_civil_utc(civil) - now, 0, kMaxRetryAfter);
}

std::optional<Instant> retry_after_in_body(std::string_view body) {
    if (body.find("\"retryDelay\"") == std::string_view::npos) {
        return std::nullopt;
    }
    const std::optional<Json> parsed = parse_json(body);
    // The format of OpenAI's API has the error in an array there.
    const Json* root = parsed ? &*parsed : nullptr;
    if (root != nullptr && root->is_array() && !root->empty()) {
        root = &root->front();
    }
    for (const char* key : {"error", "details"}) {
        if (root == nullptr || !root->is_object() || !root->contains(key)) {
            return std::nullopt;
        }
        root = &root->at(key);
    }
    if (!root->is_array()) {
        return std::nullopt;
    }
    for (const Json& detail : *root) {
        const std::string_view delay = string_or(detail, "retryDelay", "");
        if (const auto parsed_delay = parse_go_duration(delay)) {
            return parsed_delay;
        }
    }
    return std::nullopt;
}

}  // namespace mana_ai::core
