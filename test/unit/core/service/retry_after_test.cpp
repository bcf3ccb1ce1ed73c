#include "mana_ai/core/service/retry_after.hpp"

#include <gtest/gtest.h>

#include <cstdint>
#include <string>

namespace mana_ai::core {
namespace {

const Instant kNow = *parse_instant("1994-11-06T08:49:00Z");

std::optional<Instant> seconds(Instant count) {
    return count * kMicrosPerSecond;
}

TEST(RetryAfter, ReadsSeconds) {
    EXPECT_EQ(parse_retry_after("0", kNow), 0);
    EXPECT_EQ(parse_retry_after("120", kNow), seconds(120));
    EXPECT_EQ(parse_retry_after(" 7\t\r\n", kNow), seconds(7));
    EXPECT_EQ(parse_retry_after("1.25", kNow), 1'250'000);
    EXPECT_EQ(parse_retry_after("0.12345678901234567890", kNow), 123'456);
}

TEST(RetryAfter, CutsAbsurdDelays) {
    EXPECT_EQ(parse_retry_after("86401", kNow), kMaxRetryAfter);
    EXPECT_EQ(parse_retry_after("86400.5", kNow), kMaxRetryAfter);
    EXPECT_EQ(parse_retry_after(std::string(10'000, '9'), kNow), kMaxRetryAfter);
    EXPECT_EQ(parse_retry_after("Fri, 31 Dec 9999 23:59:59 GMT", kNow), kMaxRetryAfter);
}

TEST(RetryAfter, ReadsAllThreeFormsOfDates) {
    EXPECT_EQ(parse_retry_after("Sun, 06 Nov 1994 08:49:37 GMT", kNow), seconds(37));
    EXPECT_EQ(parse_retry_after("Sunday, 06-Nov-94 08:49:37 GMT", kNow), seconds(37));
    EXPECT_EQ(parse_retry_after("Sun Nov  6 08:49:37 1994", kNow), seconds(37));
    EXPECT_EQ(parse_retry_after("Sun Nov 06 08:49:37 1994", kNow), seconds(37));
}

TEST(RetryAfter, APastDateIsNoDelay) {
    EXPECT_EQ(parse_retry_after("Sun, 06 Nov 1994 08:48:59 GMT", kNow), 0);
    EXPECT_EQ(parse_retry_after("Thu, 01 Jan 1970 00:00:00 GMT", kNow), 0);
    EXPECT_EQ(parse_retry_after("Sat, 01 Jan 0000 00:00:00 GMT", kNow), 0);
}

TEST(RetryAfter, PlacesTwoDigitYearsNearNow) {
    const Instant now = *parse_instant("2026-12-31T23:59:00Z");
    EXPECT_EQ(parse_retry_after("Friday, 01-Jan-27 00:00:00 GMT", now), seconds(60));
    EXPECT_EQ(parse_retry_after("Sunday, 06-Nov-94 08:49:37 GMT", now), 0);
}

TEST(RetryAfter, AllowsALeapSecond) {
    EXPECT_EQ(parse_retry_after("Sun, 06 Nov 1994 08:49:60 GMT", kNow), seconds(60));
}

TEST(RetryAfter, RefusesEverythingElse) {
    for (const char* text : {"",
                             " ",
                             "-1",
                             "+1",
                             "1s",
                             "1 2",
                             ".5",
                             "1.",
                             "1,5",
                             "1e3",
                             "soon",
                             "Sun, 06 Nov 1994 08:49:37",
                             "Sun, 06 Nov 1994 08:49:37 CET",
                             "Sun, 31 Feb 1994 08:49:37 GMT",
                             "Sun, 00 Nov 1994 08:49:37 GMT",
                             "Sun, 06 Nov 1994 24:00:00 GMT",
                             "Sun, 06 Nov 1994 08:60:00 GMT",
                             "Sun, 06 Nov 1994 08:49:61 GMT",
                             "Sun, 06 Xyz 1994 08:49:37 GMT",
                             "Xyz, 06 Nov 1994 08:49:37 GMT",
                             "Sun, 6 Nov 1994 08:49:37 GMT",
                             "1994-11-06T08:49:37Z",
                             "Sun Nov  6 08:49:37 1994 GMT",
                             "Sunday, 06-Nov-94"}) {
        EXPECT_FALSE(parse_retry_after(text, kNow)) << text;
    }
    EXPECT_FALSE(parse_retry_after(std::string_view("7\0", 2), kNow));
}

TEST(RetryAfter, IsInTheBodyOfGeminisRefusals) {
    // As reported to its client library, with fewer violations.
    const std::string refusal = R"({"error": {"code": 429, "message": "You exceeded your quota",
        "status": "RESOURCE_EXHAUSTED", "details": [
        {"@type": "type.googleapis.com/google.rpc.Help", "links": [{"description": "Learn more"}]},
        {"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": [{"quotaId":
         "GenerateRequestsPerMinutePerProjectPerModel-FreeTier"}]},
        {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "47s"}]}})";
    EXPECT_EQ(retry_after_in_body(refusal), 47 * kMicrosPerSecond);
    EXPECT_EQ(retry_after_in_body("[" + refusal + "]"), 47 * kMicrosPerSecond);
    EXPECT_EQ(retry_after_in_body(R"({"error":{"details":[{"retryDelay":"2.5s"}]}})"), 2'500'000);
    for (const char* body :
         {"", "retryDelay", R"({"retryDelay": "1s"})", R"({"error": {"retryDelay": "1s"}})",
          R"({"error": {"details": {"retryDelay": "1s"}}})", R"([{"retryDelay": "1s"}])",
          R"({"error": {"details": [1, {"retryDelay": 1}, {"retryDelay": "soon"}]}})",
          R"({"error": {"details": [{"retryDelay": "-1s"}]}})", R"({"error":{"retryDelay")"}) {
        EXPECT_EQ(retry_after_in_body(body), std::nullopt) << body;
    }
}

TEST(RetryAfter, TakesAnyNow) {
    EXPECT_EQ(parse_retry_after("Sunday, 06-Nov-94 08:49:37 GMT", INT64_MAX), 0);
    EXPECT_TRUE(parse_retry_after("Sunday, 06-Nov-94 08:49:37 GMT", INT64_MIN));
    EXPECT_EQ(parse_retry_after("Sun, 06 Nov 1994 08:49:37 GMT", INT64_MIN), kMaxRetryAfter);
}

}  // namespace
}  // namespace mana_ai::core
