// Whether a failed call or mission is tried again, and when. docs/contract/tick.md, Model wire
// format.
#pragma once

#include <optional>

#include "mana_ai/core/service/error_kind.hpp"
#include "mana_ai/core/service/model_wire.hpp"
#include "mana_ai/core/service/service_gate.hpp"
#include "mana_ai/core/time/instant.hpp"

namespace mana_ai::core {

inline constexpr Instant kMaxMissionBackoff = 6 * kMicrosPerHour;  // before jitter
inline constexpr Instant kServiceBackoff = 2 * kMicrosPerMinute;
inline constexpr Instant kLongestWaitWithinRun = 30 * kMicrosPerSecond;
inline constexpr int kMaxRetriesWithinRun = 2;

// Delay in microseconds before a failed mission is tried again: 1 min, doubled with every further
// consecutive failure up to 6 h, ±20 %; 6 h sharp for blocked and capability; always about 2 min
// for no_healthy_provider, which says nothing about the mission. `retry_after_delay` is a minimum.
// consecutive_failures counts this failure (values below 1 count as 1); random01 is a random number
// from 0 to 1.
Instant mission_backoff_delay(ErrorKind kind, int consecutive_failures, double random01,
                              std::optional<Instant> retry_after_delay);

// What a failed call says about the service, if `by_status` is what its HTTP status alone says: a
// gateway that names the problem of a request has answered, whatever status it chose.
CallEnd call_end(const ProviderError& error, CallEnd by_status) noexcept;

// What a reply says about it: its provider may have failed in the middle.
CallEnd call_end(const ModelReply& reply) noexcept;

// A call that is not tried again, and its circumstances.
struct FailedCall {
    CallEnd end = CallEnd::Down;
    bool is_closed = false;         // the gate of the service
    bool others_failed = false;     // the service has failed calls of other missions too
    bool others_answered = false;   // since the first try
    bool is_refused_often = false;  // at each of many attempts
    bool has_paid = false;          // replies that come before it are lost
    bool was_of_service = false;    // the mission's last run ended in this way
};

// Whether the failure is the service's, so that the mission is tried again soon and nothing counts
// against it. If no other mission's call has failed, only while that costs nothing, and for a
// failure that may be the request's only once.
bool is_of_service(const FailedCall& call) noexcept;

struct RetryDecision {
    bool retry = false;
    Instant delay = 0;  // microseconds; 0 if not to be retried
};

// Whether the same call is worth another attempt within the run. attempts_so_far includes the
// failed call, so it is 1 after the first. At most kMaxRetriesWithinRun retries:
// - timeout, unreachable, malformed, and the statuses 502, 503, 504 without a kind: after about
//   0.5 s, then 2 s (±20 %), or after Retry-After if that is longer, unless it is longer than 30 s;
// - rate_limit: after Retry-After exactly, if there is one of at most 30 s;
// - anything else: no retry.
RetryDecision retry_within_run(const ProviderError& error, int attempts_so_far, double random01);

}  // namespace mana_ai::core
