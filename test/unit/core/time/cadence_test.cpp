#include "mana_ai/core/time/cadence.hpp"

#include <gtest/gtest.h>

#include <fstream>
#include <limits>
#include <string>
#include <string_view>

#include "transition_time_zone.hpp"

namespace mana_ai::core {
namespace {

std::string next(const char* cadence, std::string_view after, const TimeZone& zone) {
    const NextRun run = next_run(*parse_json(cadence), *parse_instant(after), zone);
    EXPECT_EQ(run.problem, "") << cadence;
    return run.at ? to_iso_millis(*run.at) : "null";
}

std::string next(const char* cadence, std::string_view after) {
    return next(cadence, after, UtcTimeZone());
}

NextRun in_utc(const Json& cadence) {
    return next_run(cadence, *parse_instant("2026-03-02T12:00Z"), UtcTimeZone());
}

void expect_problem(const char* cadence, std::string_view words) {
    const NextRun run = in_utc(*parse_json(cadence));
    EXPECT_FALSE(run.at) << cadence;
    EXPECT_NE(run.problem.find(words), std::string::npos) << cadence << ": " << run.problem;
}

TEST(Cadence, AgreesWithTheVectors) {
    std::ifstream file(MANA_AI_TEST_DATA "/cadence.jsonl");
    ASSERT_TRUE(file) << MANA_AI_TEST_DATA;
    int cases = 0;
    for (std::string line; std::getline(file, line); ++cases) {
        const Json vector = *parse_json(line);
        ASSERT_EQ(vector.at("timezone"), "UTC") << line;
        const NextRun run = next_run(vector.at("cadence"),
                                     *parse_instant(string_or(vector, "from", "")), UtcTimeZone());
        EXPECT_EQ(run.problem, "") << line;
        EXPECT_EQ(run.at ? Json(to_iso_millis(*run.at)) : Json(), vector.at("expected")) << line;
    }
    EXPECT_GE(cases, 300);
}

TEST(Cadence, ManualHasNeitherInstantNorProblem) {
    EXPECT_EQ(in_utc({{"kind", "manual"}}), NextRun{});
    EXPECT_EQ(next_run({{"kind", "manual"}}, INT64_MAX, UtcTimeZone()), NextRun{});
}

TEST(Cadence, OnChangeHasNoTime) {
    EXPECT_EQ(in_utc({{"kind", "onChange"}}), NextRun{});
    EXPECT_EQ(in_utc({{"kind", "onChange"}, {"debounceMinutes", "soon"}}), NextRun{});
}

TEST(Cadence, IntervalAddsToNowAndIgnoresTheZone) {
    EXPECT_EQ(
        next(R"({"kind":"interval","everyMinutes":90})", "2026-03-29T00:30:00.123Z", berlin()),
        "2026-03-29T02:00:00.123Z");
    EXPECT_EQ(next(R"({"kind":"interval","everyMinutes":60.0})", "2026-03-02T00:00Z"),
              "2026-03-02T01:00:00.000Z");
}

TEST(Cadence, DailyRunsAtTheNextLocalTime) {
    const char* cadence = R"({"kind":"daily","atHour":9,"atMinute":30})";
    EXPECT_EQ(next(cadence, "2026-03-02T08:00Z", berlin()), "2026-03-02T08:30:00.000Z");
    EXPECT_EQ(next(cadence, "2026-03-02T08:30Z", berlin()), "2026-03-03T08:30:00.000Z");
    EXPECT_EQ(next(cadence, "2026-07-02T08:00Z", berlin()), "2026-07-03T07:30:00.000Z");
    EXPECT_EQ(next(R"({"kind":"daily","atHour":0,"atMinute":0})", "2026-03-02T23:30Z", berlin()),
              "2026-03-03T23:00:00.000Z");
}

TEST(Cadence, DailyKeepsItsLocalTimeOverClockChanges) {
    const char* cadence = R"({"kind":"daily","atHour":9,"atMinute":0})";
    EXPECT_EQ(next(cadence, "2026-03-28T08:00Z", berlin()), "2026-03-29T07:00:00.000Z");
    EXPECT_EQ(next(cadence, "2026-10-24T07:00Z", berlin()), "2026-10-25T08:00:00.000Z");
}

TEST(Cadence, DailyRunsOnceOnDaysOfClockChange) {
    const char* cadence = R"({"kind":"daily","atHour":2,"atMinute":30})";
    // 02:30 does not exist.
    EXPECT_EQ(next(cadence, "2026-03-28T01:30Z", berlin()), "2026-03-29T01:30:00.000Z");
    EXPECT_EQ(next(cadence, "2026-03-29T01:30Z", berlin()), "2026-03-30T00:30:00.000Z");
    // 02:30 occurs twice.
    EXPECT_EQ(next(cadence, "2026-10-24T00:30Z", berlin()), "2026-10-25T00:30:00.000Z");
    EXPECT_EQ(next(cadence, "2026-10-25T00:30:05Z", berlin()), "2026-10-26T01:30:00.000Z");
}

TEST(Cadence, WeeklyRunsAtTheNextLocalDay) {
    const char* sunday = R"({"kind":"weekly","dayOfWeek":0,"atHour":9})";
    EXPECT_EQ(next(sunday, "2026-03-22T08:00Z", berlin()), "2026-03-29T07:00:00.000Z");
    EXPECT_EQ(next(sunday, "2026-10-18T07:00Z", berlin()), "2026-10-25T08:00:00.000Z");
    EXPECT_EQ(next(R"({"kind":"weekly","dayOfWeek":1,"atHour":0})", "2026-03-01T23:00Z", berlin()),
              "2026-03-08T23:00:00.000Z");
    EXPECT_EQ(next(R"({"kind":"weekly","dayOfWeek":0,"atHour":2})", "2026-03-29T00:59Z", berlin()),
              "2026-03-29T01:00:00.000Z");
}

TEST(Cadence, CronRunsAtTheNextMatch) {
    EXPECT_EQ(
        next(R"({"kind":"cron","expression":"30 7 * * MON-FRI"})", "2026-03-06T12:00Z", berlin()),
        "2026-03-09T06:30:00.000Z");
}

TEST(Cadence, UnknownShapesAreProblems) {
    expect_problem("null", "missing");
    for (const char* cadence : {"[]", "7", "\"daily\"", "true"}) {
        expect_problem(cadence, "must be an object");
    }
    for (const char* cadence : {"{}", R"({"kind":null})", R"({"kind":1})", R"({"kind":"hourly"})",
                                R"({"kind":"Daily"})", R"({"kind":["daily"]})"}) {
        expect_problem(cadence, "\"kind\"");
    }
}

TEST(Cadence, WrongNumbersAreProblems) {
    for (const char* number :
         {"0", "-5", "-0.0", "1.5", "\"60\"", "null", "true", "[60]", "{}", "-9223372036854775808",
          "18446744073709551615", "1e300", "1e-300", "-1e300"}) {
        expect_problem(
            (R"({"kind":"interval","everyMinutes":)" + std::string(number) + "}").c_str(),
            "positive whole number");
    }
    expect_problem(R"({"kind":"interval"})", "positive whole number");
    for (const char* number : {"24", "-1", "9.5", "\"9\"", "null", "4294967296", "1e300"}) {
        expect_problem(
            (R"({"kind":"daily","atMinute":0,"atHour":)" + std::string(number) + "}").c_str(),
            "\"atHour\"");
        expect_problem(
            (R"({"kind":"weekly","dayOfWeek":0,"atHour":)" + std::string(number) + "}").c_str(),
            "\"atHour\"");
    }
    for (const char* number : {"60", "-1", "0.1", "\"0\"", "null", "18446744073709551615"}) {
        expect_problem(
            (R"({"kind":"daily","atHour":9,"atMinute":)" + std::string(number) + "}").c_str(),
            "\"atMinute\"");
    }
    for (const char* number : {"7", "-1", "\"MON\"", "null"}) {
        expect_problem(
            (R"({"kind":"weekly","atHour":9,"dayOfWeek":)" + std::string(number) + "}").c_str(),
            "\"dayOfWeek\"");
    }
    expect_problem(R"({"kind":"daily","atHour":9})", "\"atMinute\"");
    expect_problem(R"({"kind":"daily","atMinute":9})", "\"atHour\"");
    expect_problem(R"({"kind":"weekly","atHour":9})", "\"dayOfWeek\"");
}

TEST(Cadence, HugeIntervalsAreProblems) {
    for (const char* number : {"4200000000", "9223372036854775807", "9007199254740992.0"}) {
        expect_problem(
            (R"({"kind":"interval","everyMinutes":)" + std::string(number) + "}").c_str(),
            "too large");
    }
    EXPECT_TRUE(in_utc({{"kind", "interval"}, {"everyMinutes", 4'000'000'000}}).at);
    EXPECT_FALSE(
        next_run({{"kind", "interval"}, {"everyMinutes", 1}}, kEndOfIsoInstants - 1, UtcTimeZone())
            .at);
}

TEST(Cadence, NumbersThatJsonCannotHoldAreProblems) {
    EXPECT_NE(
        in_utc({{"kind", "interval"}, {"everyMinutes", std::numeric_limits<double>::infinity()}})
            .problem,
        "");
    EXPECT_NE(
        in_utc({{"kind", "interval"}, {"everyMinutes", std::numeric_limits<double>::quiet_NaN()}})
            .problem,
        "");
}

TEST(Cadence, WrongExpressionsAreProblems) {
    expect_problem(R"({"kind":"cron"})", "must be a string");
    expect_problem(R"({"kind":"cron","expression":5})", "must be a string");
    expect_problem(R"({"kind":"cron","expression":""})", "fewer than five");
    expect_problem(R"({"kind":"cron","expression":"0 25 * * *"})", "invalid hour");
    expect_problem(R"({"kind":"cron","expression":"0 0 30 2 *"})", "never matches");
}

TEST(Cadence, AStartOutsideTheCalendarIsAProblem) {
    for (const Instant after : {INT64_MIN, kFirstIsoInstant - 1, kEndOfIsoInstants, INT64_MAX}) {
        for (const char* cadence : {R"({"kind":"interval","everyMinutes":5})",
                                    R"({"kind":"daily","atHour":9,"atMinute":0})",
                                    R"({"kind":"cron","expression":"* * * * *"})"}) {
            const NextRun run = next_run(*parse_json(cadence), after, UtcTimeZone());
            EXPECT_FALSE(run.at);
            EXPECT_NE(run.problem.find("out of range"), std::string::npos);
        }
    }
}

}  // namespace
}  // namespace mana_ai::core
