#include "mana_ai/core/time/cron.hpp"

#include <gtest/gtest.h>

#include <chrono>
#include <string>
#include <string_view>
#include <variant>

#include "transition_time_zone.hpp"

namespace mana_ai::core {
namespace {

CronSchedule schedule(std::string_view expression) {
    const auto parsed = parse_cron(expression);
    EXPECT_TRUE(std::holds_alternative<CronSchedule>(parsed)) << expression;
    return std::holds_alternative<CronSchedule>(parsed) ? std::get<CronSchedule>(parsed)
                                                        : CronSchedule{};
}

std::string next(std::string_view expression, std::string_view after, const TimeZone& zone) {
    const std::optional<Instant> match =
        next_match(schedule(expression), *parse_instant(after), zone);
    return match ? to_iso_millis(*match) : "never";
}

std::string next(std::string_view expression, std::string_view after) {
    return next(expression, after, UtcTimeZone());
}

std::string problem(std::string_view expression) {
    const auto parsed = parse_cron(expression);
    const auto* found = std::get_if<CronProblem>(&parsed);
    return found == nullptr ? "" : found->text;
}

TEST(ParseCron, ReadsListsRangesAndSteps) {
    EXPECT_EQ(schedule("0,15,30-32 * * * *").minutes, 1ULL << 0 | 1ULL << 15 | 7ULL << 30);
    EXPECT_EQ(schedule("*/20 * * * *").minutes, 1ULL << 0 | 1ULL << 20 | 1ULL << 40);
    EXPECT_EQ(schedule("10-30/10 * * * *").minutes, 1ULL << 10 | 1ULL << 20 | 1ULL << 30);
    EXPECT_EQ(schedule("50/5 * * * *").minutes, 1ULL << 50 | 1ULL << 55);
    EXPECT_EQ(schedule("0 */100 * * *").hours, 1U);
    EXPECT_EQ(schedule("* * * * *").days_of_month, 0xFFFF'FFFEU);
    EXPECT_EQ(schedule("* * * * *").months, 0x1FFEU);
}

TEST(ParseCron, ReadsNamesInAnyCase) {
    EXPECT_EQ(schedule("0 0 * jan,Mar-MAY *").months, 1U << 1 | 7U << 3);
    EXPECT_EQ(schedule("0 0 * * mon-Fri").days_of_week, 0b0111110U);
    EXPECT_EQ(schedule("0 0 * DEC SUN").months, 1U << 12);
}

TEST(ParseCron, TakesSevenForSunday) {
    EXPECT_EQ(schedule("0 0 * * 7").days_of_week, 1U);
    EXPECT_EQ(schedule("0 0 * * 5-7").days_of_week, 0b1100001U);
    EXPECT_EQ(schedule("0 0 * * FRI-SUN").days_of_week, 0b1100001U);
    EXPECT_EQ(schedule("0 0 * * 0-7").days_of_week, 0b1111111U);
    EXPECT_EQ(schedule("0 0 * * SUN-TUE").days_of_week, 0b0000111U);
}

TEST(ParseCron, SeparatesFieldsByAnyBlanks) {
    EXPECT_EQ(schedule("  5\t4  * *\n* ").hours, 1U << 4);
}

TEST(ParseCron, SaysWhichFieldIsInvalid) {
    EXPECT_EQ(problem("60 * * * *"), "cron expression has an invalid minute field");
    EXPECT_EQ(problem("* 24 * * *"), "cron expression has an invalid hour field");
    EXPECT_EQ(problem("* * 0 * *"), "cron expression has an invalid day of month field");
    EXPECT_EQ(problem("* * 32 * *"), "cron expression has an invalid day of month field");
    EXPECT_EQ(problem("* * * 13 *"), "cron expression has an invalid month field");
    EXPECT_EQ(problem("* * * 0 *"), "cron expression has an invalid month field");
    EXPECT_EQ(problem("* * * * 8"), "cron expression has an invalid day of week field");
    EXPECT_EQ(problem(""), "cron expression has fewer than five fields");
    EXPECT_EQ(problem("* * * *"), "cron expression has fewer than five fields");
    EXPECT_EQ(problem("* * * * * *"), "cron expression has more than five fields");
    EXPECT_EQ(problem(std::string(100'000, '*')), "cron expression is too long");
}

TEST(ParseCron, RefusesWhatItDoesNotKnow) {
    for (const char* field : {"-",
                              "-1",
                              "1-",
                              "5-3",
                              "1,,2",
                              ",1",
                              "1,",
                              "/2",
                              "*/0",
                              "*/",
                              "*/x",
                              "1/0",
                              "**",
                              "*-5",
                              "1-2-3",
                              "1/2/3",
                              "?",
                              "L",
                              "1W",
                              "x",
                              "MON",
                              "+1",
                              "0x1",
                              "1.5",
                              "99999999999999999999",
                              "*/99999999999999999999",
                              "$"}) {
        EXPECT_NE(problem(std::string(field) + " * * * *"), "") << field;
    }
    EXPECT_NE(problem("0 0 * * JAN"), "");
    EXPECT_NE(problem("0 0 * * MONDAY"), "");
    EXPECT_NE(problem("0 0 * SUN *"), "");
    EXPECT_NE(problem("0 0 * * SAT-MON"), "");
    EXPECT_NE(problem("@daily"), "");
    EXPECT_NE(problem(std::string_view("0 0 * * \0", 9)), "");
}

TEST(NextMatch, IsStrictlyAfter) {
    EXPECT_EQ(next("0 9 * * *", "2026-03-02T08:59:59.999Z"), "2026-03-02T09:00:00.000Z");
    EXPECT_EQ(next("0 9 * * *", "2026-03-02T09:00:00Z"), "2026-03-03T09:00:00.000Z");
    EXPECT_EQ(next("0 9 * * *", "2026-03-02T09:00:00.000001Z"), "2026-03-03T09:00:00.000Z");
    EXPECT_EQ(next("* * * * *", "2026-03-02T09:00:00Z"), "2026-03-02T09:01:00.000Z");
    EXPECT_EQ(next("* * * * *", "2026-12-31T23:59:30.5Z"), "2027-01-01T00:00:00.000Z");
    EXPECT_EQ(next("*/15 * * * *", "2026-03-02T09:46:10Z"), "2026-03-02T10:00:00.000Z");
}

TEST(NextMatch, MatchesEitherDayIfBothAreRestricted) {
    // 2026-03-02 is a Monday.
    EXPECT_EQ(next("0 0 13 * FRI", "2026-03-02T00:00Z"), "2026-03-06T00:00:00.000Z");
    EXPECT_EQ(next("0 0 4 * FRI", "2026-03-02T00:00Z"), "2026-03-04T00:00:00.000Z");
}

TEST(NextMatch, NeedsBothDaysIfOneFieldBeginsWithAStar) {
    EXPECT_EQ(next("0 0 * * FRI", "2026-03-02T00:00Z"), "2026-03-06T00:00:00.000Z");
    EXPECT_EQ(next("0 0 13 * *", "2026-03-02T00:00Z"), "2026-03-13T00:00:00.000Z");
    EXPECT_EQ(next("0 0 */2 * FRI", "2026-03-02T00:00Z"), "2026-03-13T00:00:00.000Z");
}

TEST(NextMatch, FindsLeapDays) {
    EXPECT_EQ(next("0 0 29 2 *", "2026-03-02T00:00Z"), "2028-02-29T00:00:00.000Z");
    EXPECT_EQ(next("0 0 29 2 *", "2096-03-01T00:00Z"), "2104-02-29T00:00:00.000Z");
    // A leap day that is one of */3 = Sunday, Wednesday, Saturday.
    EXPECT_EQ(next("0 0 29 2 */3", "2026-03-02T00:00Z"), "2032-02-29T00:00:00.000Z");
}

TEST(NextMatch, GivesUpQuicklyOnImpossibleDates) {
    const auto started = std::chrono::steady_clock::now();
    EXPECT_EQ(next("0 0 30 2 *", "2026-03-02T00:00Z"), "never");
    EXPECT_EQ(next("0 0 31 2,4,6,9,11 *", "2026-03-02T00:00Z"), "never");
    EXPECT_EQ(next("* * 30,31 feb *", "2026-03-02T00:00Z"), "never");
    EXPECT_LT(std::chrono::steady_clock::now() - started, std::chrono::seconds(1));
}

TEST(NextMatch, EndsWithTheYear9999) {
    EXPECT_EQ(next("0 0 1 1 *", "9999-06-01T00:00Z"), "never");
    EXPECT_EQ(next("* * * * *", "9999-12-31T23:59:59Z"), "never");
    EXPECT_EQ(next("59 23 * * *", "9999-12-31T00:00Z"), "9999-12-31T23:59:00.000Z");
    EXPECT_EQ(next("0 0 * * *", "0001-01-01T00:00Z"), "0001-01-02T00:00:00.000Z");
}

TEST(NextMatch, RunsASkippedLocalTimeOnceAtTheShiftedTime) {
    // In Berlin, 2026-03-29 02:00 to 03:00 does not exist: 02:30 is read as 03:30 summer time.
    EXPECT_EQ(next("30 2 * * *", "2026-03-28T12:00Z", berlin()), "2026-03-29T01:30:00.000Z");
    EXPECT_EQ(next("30 2 * * *", "2026-03-29T01:30Z", berlin()), "2026-03-30T00:30:00.000Z");
    // 02:30 and 03:30 fall on the same instant, 03:00 lies before it.
    EXPECT_EQ(next("0,30 2,3 * * *", "2026-03-29T00:59Z", berlin()), "2026-03-29T01:00:00.000Z");
    EXPECT_EQ(next("0,30 2,3 * * *", "2026-03-29T01:00Z", berlin()), "2026-03-29T01:30:00.000Z");
    EXPECT_EQ(next("0,30 2,3 * * *", "2026-03-29T01:30Z", berlin()), "2026-03-30T00:00:00.000Z");
}

TEST(NextMatch, RunsARepeatedLocalTimeOnceAtItsFirstOccurrence) {
    // In Berlin, 2026-10-25 02:00 to 03:00 occurs twice.
    EXPECT_EQ(next("30 2 * * *", "2026-10-24T12:00Z", berlin()), "2026-10-25T00:30:00.000Z");
    EXPECT_EQ(next("30 2 * * *", "2026-10-25T00:30Z", berlin()), "2026-10-26T01:30:00.000Z");
    // From within the second 02:00-03:00, too.
    EXPECT_EQ(next("30 2 * * *", "2026-10-25T01:10Z", berlin()), "2026-10-26T01:30:00.000Z");
}

TEST(NextMatch, FollowsTheRealClockIfEveryHourMatches) {
    EXPECT_EQ(next("30 * * * *", "2026-10-25T00:30Z", berlin()), "2026-10-25T01:30:00.000Z");
    EXPECT_EQ(next("30 * * * *", "2026-10-25T01:30Z", berlin()), "2026-10-25T02:30:00.000Z");
    EXPECT_EQ(next("*/15 0-23 * * *", "2026-10-25T00:45Z", berlin()), "2026-10-25T01:00:00.000Z");
    EXPECT_EQ(next("30 * * * *", "2026-03-29T00:30Z", berlin()), "2026-03-29T01:30:00.000Z");
    EXPECT_EQ(next("45 * * * SUN", "2026-03-29T00:50Z", berlin()), "2026-03-29T01:45:00.000Z");
}

TEST(NextMatch, UsesTheLocalDate) {
    // Monday 00:00 in Berlin is Sunday 23:00 UTC in winter and 22:00 in summer.
    EXPECT_EQ(next("0 0 * * MON", "2026-01-01T00:00Z", berlin()), "2026-01-04T23:00:00.000Z");
    EXPECT_EQ(next("0 0 1 7 *", "2026-01-01T00:00Z", berlin()), "2026-06-30T22:00:00.000Z");
    EXPECT_EQ(next("* * 1 7 *", "2026-01-01T00:00Z", berlin()), "2026-06-30T22:00:00.000Z");
}

TEST(NextMatch, FindsATimeThatIsShiftedPastMidnight) {
    // At 23:00 the clock goes forward to midnight.
    const Instant change = *parse_instant("2024-03-31T01:00Z");
    const TransitionTimeZone before_midnight(-120, {{change, -60}});
    EXPECT_EQ(next("30 23 * * *", "2024-03-31T01:10Z", before_midnight),
              "2024-03-31T01:30:00.000Z");
    EXPECT_EQ(next("30 23 * * *", "2024-03-31T01:30Z", before_midnight),
              "2024-04-01T00:30:00.000Z");
}

TEST(NextMatch, SurvivesADayThatDoesNotExist) {
    // Samoa skipped 2011-12-30 altogether.
    const Instant change = *parse_instant("2011-12-30T10:00Z");
    const TransitionTimeZone apia(-600, {{change, 840}});
    EXPECT_EQ(next("0 12 30 12 *", "2011-12-29T00:00Z", apia), "2011-12-30T22:00:00.000Z");
    EXPECT_EQ(next("0 12 * * *", "2011-12-29T22:00Z", apia), "2011-12-30T22:00:00.000Z");
    EXPECT_EQ(next("0 12 * * *", "2011-12-30T22:00Z", apia), "2011-12-31T22:00:00.000Z");
    EXPECT_EQ(next("*/10 * 30 12 *", "2011-12-29T22:00Z", apia), "2012-12-29T10:00:00.000Z");
    EXPECT_EQ(next("*/10 * * * *", "2011-12-30T09:55Z", apia), "2011-12-30T10:00:00.000Z");
}

TEST(NextMatch, HandlesHalfHourChanges) {
    // Lord Howe Island: at 02:00 half an hour forward.
    const Instant change = *parse_instant("2026-10-03T15:30Z");
    const TransitionTimeZone lord_howe(630, {{change, 660}});
    EXPECT_EQ(next("15 2 * * *", "2026-10-03T12:00Z", lord_howe), "2026-10-03T15:45:00.000Z");
    EXPECT_EQ(next("15 * * * *", "2026-10-03T15:00Z", lord_howe), "2026-10-03T16:15:00.000Z");
}

TEST(NextMatch, NeverGoesBackOrStandsStillOverAYearOfClockChanges) {
    const TransitionTimeZone zone = berlin();
    for (const char* expression : {"*/15 * * * *", "0 2 * * *", "30 2,3 * * *", "7 */2 * * 1-5",
                                   "0,30 0-22 * * *", "0 0 1 * *"}) {
        const CronSchedule parsed = schedule(expression);
        Instant last = *parse_instant("2026-03-20T00:00Z");
        for (int i = 0; i < 2000; ++i) {
            const std::optional<Instant> match = next_match(parsed, last, zone);
            ASSERT_TRUE(match) << expression;
            ASSERT_GT(*match, last) << expression;
            // Asking a moment before a match gives the same match.
            ASSERT_EQ(next_match(parsed, *match - 1, zone), match) << expression;
            last = *match;
        }
    }
}

}  // namespace
}  // namespace mana_ai::core
