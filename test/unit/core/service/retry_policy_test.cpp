#include "mana_ai/core/service/retry_policy.hpp"

#include <gtest/gtest.h>

#include <climits>
#include <limits>

namespace mana_ai::core {
namespace {

constexpr double kMiddle = 0.5;  // no jitter

Instant backoff(int failures, double random01 = kMiddle) {
    return mission_backoff_delay(ErrorKind::Unknown, failures, random01, std::nullopt);
}

ProviderError error(ErrorKind kind, int status, std::optional<Instant> retry_after = {}) {
    return {.kind = kind, .http_status = status, .message = {}, .retry_after = retry_after};
}

TEST(MissionBackoff, DoublesFromOneMinuteToSixHours) {
    EXPECT_EQ(backoff(1), kMicrosPerMinute);
    EXPECT_EQ(backoff(2), 2 * kMicrosPerMinute);
    EXPECT_EQ(backoff(5), 16 * kMicrosPerMinute);
    EXPECT_EQ(backoff(9), 256 * kMicrosPerMinute);
    EXPECT_EQ(backoff(10), 6 * kMicrosPerHour);
    EXPECT_EQ(backoff(INT_MAX), 6 * kMicrosPerHour);
    EXPECT_EQ(backoff(0), kMicrosPerMinute);
    EXPECT_EQ(backoff(INT_MIN), kMicrosPerMinute);
}

TEST(MissionBackoff, JittersByAFifth) {
    EXPECT_EQ(backoff(1, 0.0), 48 * kMicrosPerSecond);
    EXPECT_EQ(backoff(1, 1.0), 72 * kMicrosPerSecond);
    EXPECT_EQ(backoff(1, -7.0), 48 * kMicrosPerSecond);
    EXPECT_EQ(backoff(1, 7.0), 72 * kMicrosPerSecond);
    EXPECT_EQ(backoff(1, std::numeric_limits<double>::quiet_NaN()), kMicrosPerMinute);
}

TEST(MissionBackoff, WaitsSixHoursForWhatWillNotPass) {
    for (const ErrorKind kind : {ErrorKind::Blocked, ErrorKind::Capability}) {
        EXPECT_EQ(mission_backoff_delay(kind, 1, 0.0, std::nullopt), 6 * kMicrosPerHour);
        EXPECT_EQ(mission_backoff_delay(kind, 9, 1.0, std::nullopt), 6 * kMicrosPerHour);
    }
}

TEST(MissionBackoff, DoesNotGrowWithTheGatewaysTrouble) {
    for (const int failures : {1, 5, 50}) {
        EXPECT_EQ(mission_backoff_delay(ErrorKind::NoProvider, failures, kMiddle, std::nullopt),
                  2 * kMicrosPerMinute);
    }
}

TEST(MissionBackoff, TakesRetryAfterAsAMinimum) {
    EXPECT_EQ(mission_backoff_delay(ErrorKind::RateLimit, 1, kMiddle, kMicrosPerHour),
              kMicrosPerHour);
    EXPECT_EQ(mission_backoff_delay(ErrorKind::RateLimit, 1, kMiddle, kMicrosPerSecond),
              kMicrosPerMinute);
    EXPECT_EQ(mission_backoff_delay(ErrorKind::Blocked, 1, kMiddle, kMicrosPerMinute),
              6 * kMicrosPerHour);
}

// Whether others are kept waiting: only for what is the service's own.
TEST(CallEndOfErrors, TellsTheServiceFromTheRequest) {
    struct Case {
        int status;
        const char* body;
        CallEnd by_status;
        CallEnd end;
    };
    const Case cases[] = {
        {400, R"({"detail": "1 validation error"})", CallEnd::Answered, CallEnd::Answered},
        {422, R"({"detail": {"kind": "blocked"}})", CallEnd::Answered, CallEnd::Answered},
        {502, R"({"detail": {"kind": "truncated"}})", CallEnd::Down, CallEnd::Answered},
        {502, R"({"detail": {"kind": "auth", "message": "key"}})", CallEnd::Down,
         CallEnd::KeyRefused},
        {401, "", CallEnd::KeyRefused, CallEnd::KeyRefused},
        {403, R"({"error": {"type": "permission_error"}})", CallEnd::Forbidden, CallEnd::Forbidden},
        {503, R"({"detail": {"kind": "no_healthy_provider"}})", CallEnd::Down, CallEnd::Down},
        {503, R"({"error": {"message": "overloaded"}})", CallEnd::Down, CallEnd::Down},
        {502, R"({"detail": {"kind": "unknown", "message": "500 INTERNAL"}})", CallEnd::Down,
         CallEnd::Suspect},
        {502, R"({"error": {"code": 502, "message": "Provider returned error"}})", CallEnd::Down,
         CallEnd::Suspect},
        {502, "<html><h1>502 Bad Gateway</h1></html>", CallEnd::Down, CallEnd::Down},
        {500, R"({"detail": "x"})", CallEnd::Suspect, CallEnd::Suspect},
        {429, R"({"detail": {"kind": "rate_limit"}})", CallEnd::Refused, CallEnd::Refused},
        {200, "{}", CallEnd::Answered, CallEnd::Suspect},
        {200, R"({"error": {"code": 400}})", CallEnd::Answered, CallEnd::Answered},
        {200, R"({"error": {"code": 401}})", CallEnd::Answered, CallEnd::KeyRefused},
        {200, R"({"error": {"code": 402}})", CallEnd::Answered, CallEnd::KeyRefused},
        {200, R"({"error": {"code": 403}})", CallEnd::Answered, CallEnd::Forbidden},
        {200, R"({"error": {"type": "permission_error"}})", CallEnd::Answered, CallEnd::Forbidden},
        {200, R"({"error": {"code": 429}})", CallEnd::Answered, CallEnd::Refused},
        {200, R"({"error": {"code": 503}})", CallEnd::Answered, CallEnd::Suspect},
    };
    for (const Case& each : cases) {
        const ModelResult result = parse_model_response(each.status, each.body, "", 0);
        EXPECT_EQ(call_end(std::get<ProviderError>(result), each.by_status), each.end)
            << each.status << ' ' << each.body;
    }
}

TEST(CallEndOfReplies, IsSuspectIfTheProviderHasFailedInTheMiddle) {
    for (const char* reason : {"", "stop", "tool_calls", "length", "content_filter"}) {
        ModelReply reply;
        reply.finish_reason = reason;
        EXPECT_EQ(call_end(reply), CallEnd::Answered) << reason;
    }
    ModelReply broken;
    broken.content = "Der Plan beginnt mit";
    broken.finish_reason = "error";
    EXPECT_EQ(call_end(broken), CallEnd::Suspect);
}

TEST(RetryWithinRun, TriesPassingFailuresTwiceMore) {
    const ProviderError failures[] = {
        error(ErrorKind::Timeout, 0),     error(ErrorKind::Unreachable, 0),
        error(ErrorKind::Malformed, 200), error(ErrorKind::Unknown, 502),
        error(ErrorKind::Unknown, 503),   error(ErrorKind::Unknown, 504),
    };
    for (const ProviderError& failure : failures) {
        const RetryDecision first = retry_within_run(failure, 1, kMiddle);
        EXPECT_TRUE(first.retry);
        EXPECT_EQ(first.delay, kMicrosPerSecond / 2);
        const RetryDecision second = retry_within_run(failure, 2, kMiddle);
        EXPECT_TRUE(second.retry);
        EXPECT_EQ(second.delay, 2 * kMicrosPerSecond);
        EXPECT_FALSE(retry_within_run(failure, 3, kMiddle).retry);
        EXPECT_FALSE(retry_within_run(failure, INT_MAX, kMiddle).retry);
    }
}

TEST(OfService, OthersFailuresAreItsWitness) {
    for (const CallEnd end : {CallEnd::Refused, CallEnd::Down, CallEnd::KeyRefused}) {
        FailedCall call{.end = end, .others_failed = true, .has_paid = true};
        call.was_of_service = true;
        EXPECT_TRUE(is_of_service(call));
        call.others_failed = false;
        EXPECT_FALSE(is_of_service(call)) << "what was paid is not paid again and again";
    }
    FailedCall slow{.end = CallEnd::Suspect, .others_failed = true};
    EXPECT_FALSE(is_of_service(slow));
    slow.is_closed = true;
    EXPECT_TRUE(is_of_service(slow));
    slow.others_failed = false;
    EXPECT_FALSE(is_of_service(slow));
}

TEST(OfService, WhatMayBeTheRequestsIsBelievedOnce) {
    FailedCall call{.end = CallEnd::Refused};
    EXPECT_TRUE(is_of_service(call));
    call.was_of_service = true;
    EXPECT_FALSE(is_of_service(call));
    call.end = CallEnd::Down;
    EXPECT_TRUE(is_of_service(call)) << "no request makes a service unreachable";
}

TEST(OfService, WhileOthersAreAnsweredItIsTheRequest) {
    for (const CallEnd end :
         {CallEnd::Down, CallEnd::KeyRefused, CallEnd::Suspect, CallEnd::Forbidden}) {
        EXPECT_FALSE(is_of_service(
            {.end = end, .is_closed = true, .others_failed = true, .others_answered = true}));
    }
    // But where many call, refusals and answers alternate.
    FailedCall refused{.end = CallEnd::Refused, .others_failed = true, .others_answered = true};
    EXPECT_TRUE(is_of_service(refused));
    refused.is_refused_often = true;
    EXPECT_FALSE(is_of_service(refused));
    EXPECT_FALSE(
        is_of_service({.end = CallEnd::Answered, .is_closed = true, .others_failed = true}));
}

TEST(RetryWithinRun, LeavesTheRestToTheBackoff) {
    for (const ProviderError& failure :
         {error(ErrorKind::Unknown, 500), error(ErrorKind::Unknown, 404),
          error(ErrorKind::Blocked, 422), error(ErrorKind::Capability, 400),
          error(ErrorKind::Auth, 401), error(ErrorKind::Auth, 502),
          error(ErrorKind::Truncated, 502), error(ErrorKind::NoProvider, 503),
          error(ErrorKind::RateLimit, 429)}) {
        EXPECT_FALSE(retry_within_run(failure, 1, kMiddle).retry);
    }
}

TEST(RetryWithinRun, WaitsAsLongAsARateLimitSays) {
    const auto wait = [](Instant seconds, int attempts = 1) {
        return retry_within_run(error(ErrorKind::RateLimit, 429, seconds * kMicrosPerSecond),
                                attempts, 0.9);
    };
    EXPECT_TRUE(wait(7).retry);
    EXPECT_EQ(wait(7).delay, 7 * kMicrosPerSecond);
    EXPECT_TRUE(wait(30).retry);
    EXPECT_EQ(wait(30).delay, 30 * kMicrosPerSecond);
    EXPECT_TRUE(wait(0).retry);
    EXPECT_FALSE(wait(31).retry);
    EXPECT_FALSE(wait(7, 3).retry);
}

TEST(RetryWithinRun, HonoursRetryAfterOfAGateway) {
    const auto wait = [](Instant seconds) {
        return retry_within_run(error(ErrorKind::Unknown, 503, seconds * kMicrosPerSecond), 1, 0.5);
    };
    EXPECT_EQ(wait(10).delay, 10 * kMicrosPerSecond);
    EXPECT_EQ(wait(0).delay, kMicrosPerSecond / 2);
    EXPECT_FALSE(wait(31).retry);
}

}  // namespace
}  // namespace mana_ai::core
