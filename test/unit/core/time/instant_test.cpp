#include "mana_ai/core/time/instant.hpp"

#include <gtest/gtest.h>

#include <cstdint>
#include <string>

namespace mana_ai::core {
namespace {

TEST(ParseInstant, ReadsUtcWithAndWithoutSeconds) {
    EXPECT_EQ(parse_instant("1970-01-01T00:00Z"), 0);
    EXPECT_EQ(parse_instant("1970-01-01T00:00:01Z"), kMicrosPerSecond);
    EXPECT_EQ(parse_instant("2026-04-15T00:00:00Z"), parse_instant("2026-04-15T00:00:00.000Z"));
    EXPECT_EQ(parse_instant("2026-04-15T00:00:00Z"), 1'776'211'200 * kMicrosPerSecond);
}

TEST(ParseInstant, CountsOffsets) {
    EXPECT_EQ(parse_instant("2026-04-15T02:00:00+02:00"), parse_instant("2026-04-15T00:00:00Z"));
    EXPECT_EQ(parse_instant("2026-04-14T18:30-05:30"), parse_instant("2026-04-15T00:00Z"));
    EXPECT_EQ(parse_instant("2026-04-15T00:00:00.5-00:00"),
              parse_instant("2026-04-15T00:00:00.5Z"));
    EXPECT_EQ(parse_instant("1970-01-01T00:00+23:59"), -(kMicrosPerDay - kMicrosPerMinute));
}

TEST(ParseInstant, CutsDigitsBeyondMicroseconds) {
    EXPECT_EQ(parse_instant("1970-01-01T00:00:00.1Z"), 100'000);
    EXPECT_EQ(parse_instant("1970-01-01T00:00:00.123456Z"), 123'456);
    EXPECT_EQ(parse_instant("1970-01-01T00:00:00.123456999999999999999999999999Z"), 123'456);
    EXPECT_EQ(parse_instant("1969-12-31T23:59:59.9999999Z"), -1);
}

TEST(ParseInstant, KnowsTheCalendar) {
    EXPECT_TRUE(parse_instant("2024-02-29T00:00Z"));
    EXPECT_TRUE(parse_instant("2000-02-29T00:00Z"));
    EXPECT_TRUE(parse_instant("9999-12-31T23:59:59.999999Z"));
    for (const char* text :
         {"2023-02-29T00:00Z", "1900-02-29T00:00Z", "2026-04-31T00:00Z", "2026-00-10T00:00Z",
          "2026-13-10T00:00Z", "2026-01-00T00:00Z", "2026-01-32T00:00Z", "2026-01-01T24:00Z",
          "2026-01-01T00:60Z", "2026-01-01T00:00:60Z", "2026-01-01T00:00+24:00",
          "2026-01-01T00:00+01:60"}) {
        EXPECT_FALSE(parse_instant(text)) << text;
    }
}

TEST(ParseInstant, RefusesEverythingElse) {
    for (const char* text : {"",
                             "Z",
                             "2026-04-15",
                             "2026-04-15T00:00",
                             "2026-04-15T00:00:00",
                             "2026-04-15 00:00:00Z",
                             "2026-04-15t00:00:00Z",
                             "2026-04-15T00:00:00z",
                             " 2026-04-15T00:00:00Z",
                             "2026-04-15T00:00:00Z ",
                             "2026-04-15T00:00:00ZZ",
                             "2026-04-15T00:00:00.Z",
                             "2026-04-15T00:00:00,5Z",
                             "2026-04-15T00:00.5Z",
                             "2026-04-15T00:00:0Z",
                             "2026-04-15T00:00:00.5",
                             "2026-04-15T00:00:00.",
                             "2026-04-15T00:00:00+0200",
                             "2026-04-15T00:00:00+02",
                             "2026-04-15T00:00:00+02:0",
                             "2026-04-15T00:00:00+02:000",
                             "2026-04-15T00:00:",
                             "2026-04-15T00:00:0",
                             "2026-04-15T00Z",
                             "20260415T000000Z",
                             "+002026-04-15T00:00:00Z",
                             "2026-4-15T00:00:00Z",
                             "-026-04-15T00:00:00Z",
                             "2026-04-15T-1:00:00Z",
                             "2026/04/15T00:00:00Z",
                             "2026-04-15T00:00:00.1e3Z",
                             "now",
                             "infinity",
                             "1776211200000",
                             "2026-W16-3T00:00:00Z",
                             "２０２６-04-15T00:00:00Z"}) {
        EXPECT_FALSE(parse_instant(text)) << text;
    }
}

TEST(ParseInstant, RefusesNulBytesAndCutTexts) {
    EXPECT_FALSE(parse_instant(std::string_view("2026-04-15T00:00:00Z\0", 21)));
    EXPECT_FALSE(parse_instant(std::string_view("2026-04-15T00:\0000:00Z", 20)));
    const std::string full = "2026-04-15T00:00:00.123+02:00";
    for (std::size_t length = 0; length < full.size(); ++length) {
        EXPECT_FALSE(parse_instant(full.substr(0, length))) << length;
    }
    EXPECT_TRUE(parse_instant(full));
}

TEST(ToIsoMillis, WritesAsJavaScript) {
    EXPECT_EQ(to_iso_millis(0), "1970-01-01T00:00:00.000Z");
    EXPECT_EQ(to_iso_millis(1'776'211'200 * kMicrosPerSecond), "2026-04-15T00:00:00.000Z");
    EXPECT_EQ(to_iso_millis(1'999), "1970-01-01T00:00:00.001Z");
    EXPECT_EQ(to_iso_millis(-1), "1969-12-31T23:59:59.999Z");
    EXPECT_EQ(to_iso_millis(*parse_instant("0000-01-01T00:00Z")), "0000-01-01T00:00:00.000Z");
    EXPECT_EQ(to_iso_millis(*parse_instant("0000-01-01T00:00Z") - 1),
              "-000001-12-31T23:59:59.999Z");
    EXPECT_EQ(to_iso_millis(kEndOfIsoInstants), "+010000-01-01T00:00:00.000Z");
}

TEST(ToIsoMillis, TakesAnyInstant) {
    EXPECT_FALSE(to_iso_millis(INT64_MIN).empty());
    EXPECT_FALSE(to_iso_millis(INT64_MAX).empty());
}

TEST(CivilTime, GoesThereAndBack) {
    for (Instant instant = -300'000 * kMicrosPerDay; instant < 3'000'000 * kMicrosPerDay;
         instant += 13 * kMicrosPerDay + 7 * kMicrosPerHour + 61'000'001) {
        const CivilTime civil = civil_from_instant_utc(instant);
        ASSERT_EQ(instant_from_civil_utc(civil), instant);
        ASSERT_LE(civil.day, days_in_month(civil.year, civil.month));
    }
}

TEST(CivilTime, LimitsAreWhatTheirCommentsSay) {
    EXPECT_EQ(kFirstIsoInstant, *parse_instant("0001-01-01T00:00:00Z"));
    EXPECT_EQ(kEndOfIsoInstants - 1, *parse_instant("9999-12-31T23:59:59.999999Z"));
}

TEST(CivilTime, SplitsTheFraction) {
    const CivilTime civil = civil_from_instant_utc(*parse_instant("2024-02-29T13:14:15.678901Z"));
    EXPECT_EQ(civil, (CivilTime{2024, 2, 29, 13, 14, 15, 678'901}));
}

}  // namespace
}  // namespace mana_ai::core
