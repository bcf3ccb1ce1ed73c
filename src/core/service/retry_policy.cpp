#include "mana_ai/core/service/retry_policy.hpp"

#include <algorithm>
#include <cmath>

namespace mana_ai::core {

namespace {

constexpr double kJitter = 0.2;

// The delay times a factor from 1 - kJitter to 1 + kJitter.
Instant jittered(Instant delay, double random01) {
    const double random = std::isfinite(random01) ? std::clamp(random01, 0.0, 1.0) : 0.5;
    const double factor = 1.0 - kJitter + 2.0 * kJitter * random;
    return std::llround(static_cast<double>(delay) * factor);
}

bool is_gateway_failure(int http_status) {
    return http_status == 502 || http_status == 503 || http_status == 504;
}

}  // namespace

Instant mission_backoff_delay(ErrorKind kind, int consecutive_failures, double random01,
                              std::optional<Instant> retry_after_delay) {
    Instant delay = kMaxMissionBackoff;
    if (kind == ErrorKind::NoProvider) {
        delay = jittered(kServiceBackoff, random01);
    } else if (kind != ErrorKind::Blocked && kind != ErrorKind::Capability) {
        // 2^9 minutes are already more than the maximum.
        const int doublings = std::clamp(consecutive_failures, 1, 10) - 1;
        delay = std::min(kMicrosPerMinute << doublings, kMaxMissionBackoff);
        delay = jittered(delay, random01);
    }
    return std::max(delay, retry_after_delay.value_or(0));
}

CallEnd call_end(const ProviderError& error, CallEnd by_status) noexcept {
    switch (error.kind) {
        case ErrorKind::Blocked:
        case ErrorKind::Capability:
        case ErrorKind::Truncated:
            return CallEnd::Answered;
        case ErrorKind::RateLimit:
            return CallEnd::Refused;
        case ErrorKind::NoProvider:
            return CallEnd::Down;
        case ErrorKind::Auth:
            return error.http_status == 403 ? CallEnd::Forbidden : CallEnd::KeyRefused;
        case ErrorKind::Malformed:
            // An answer that is too large has arrived nevertheless.
            return error.http_status == 0 ? by_status : CallEnd::Suspect;
        case ErrorKind::Unknown:
            // mana-llm and OpenRouter use 502 for every provider error of a request.
            if (error.http_status == 502 && error.is_of_gateway) {
                return CallEnd::Suspect;
            }
            // Nothing is left to pay with; possibly said in the body of a success.
            if (error.http_status == 402) {
                return CallEnd::KeyRefused;
            }
            break;
        case ErrorKind::Timeout:
        case ErrorKind::Unreachable:
            break;
    }
    return by_status;
}

CallEnd call_end(const ModelReply& reply) noexcept {
    return failure_in(reply) == ErrorKind::Unknown ? CallEnd::Suspect : CallEnd::Answered;
}

bool is_of_service(const FailedCall& call) noexcept {
    switch (call.end) {
        case CallEnd::Refused:
            // With many callers, others are answered all the time.
            if (call.others_answered && call.is_refused_often) {
                return false;
            }
            return call.others_failed || (!call.has_paid && !call.was_of_service);
        case CallEnd::Down:
        case CallEnd::KeyRefused:
            return !call.others_answered && (call.others_failed || !call.has_paid);
        case CallEnd::Suspect:
        case CallEnd::Forbidden:
            return !call.others_answered && call.is_closed && call.others_failed;
        case CallEnd::Answered:
        case CallEnd::Dropped:
            break;
    }
    return false;
}

RetryDecision retry_within_run(const ProviderError& error, int attempts_so_far, double random01) {
    if (attempts_so_far > kMaxRetriesWithinRun) {
        return {};
    }
    if (error.retry_after && *error.retry_after > kLongestWaitWithinRun) {
        return {};
    }
    if (error.kind == ErrorKind::RateLimit) {
        return error.retry_after ? RetryDecision{true, std::max<Instant>(*error.retry_after, 0)}
                                 : RetryDecision{};
    }
    const bool passing = error.kind == ErrorKind::Timeout || error.kind == ErrorKind::Unreachable ||
                         error.kind == ErrorKind::Malformed;
    // A gateway that names the problem would answer the same again.
    const bool gateway = is_gateway_failure(error.http_status) && error.kind == ErrorKind::Unknown;
    if (!passing && !gateway) {
        return {};
    }
    const Instant pause =
        jittered(attempts_so_far <= 1 ? kMicrosPerSecond / 2 : 2 * kMicrosPerSecond, random01);
    return {true, std::max(pause, error.retry_after.value_or(0))};
}

}  // namespace mana_ai::core
