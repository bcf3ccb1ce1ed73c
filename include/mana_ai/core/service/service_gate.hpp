// Whether another call may be sent to a service now: concurrency, rate, and availability. Learned
// from the results of calls (docs/operations.md, "When the provider says no").
//
// Pure: uses neither clock nor network. All instants are on one monotonic clock.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>

#include "mana_ai/core/service/rate_headers.hpp"
#include "mana_ai/core/time/instant.hpp"

namespace mana_ai::core {

// How a call ended, as far as it is relevant for the service.
enum class CallEnd {
    Answered,    // it answered, even if it rejected the request
    Refused,     // too many requests
    Down,        // certainly the service's failure: no connection, 503, no provider
    Suspect,     // the service's or this request's failure: a timeout, a lost connection, 500
    KeyRefused,  // the key is not accepted
    Forbidden,   // the key may not do this, or not this request: 403
    Dropped,     // given up by the caller; no information
};

struct GateLimits {
    int max_concurrency = 1;
    double requests_per_minute = 0;  // 0 = learned only
    double tokens_per_minute = 0;    // likewise

    bool operator==(const GateLimits&) const = default;
};

struct CallReport {
    CallEnd end = CallEnd::Answered;
    std::uint64_t caller = 0;            // the same number for the same mission
    std::optional<Instant> retry_after;  // a delay
    RateHeaders rates;
    double tokens = 0;  // used; 0 = unknown
};

enum class GateState {
    Open,         // no restriction
    Limited,      // the service has recently refused calls because of their rate, or asked to wait
    Unavailable,  // it has failed repeatedly; only probes are sent
    KeyRefused,   // likewise, since it does not accept the key
};

const char* name(GateState state) noexcept;  // "open", "limited", "unavailable", "key_refused"

struct GateView {
    GateState state = GateState::Open;
    Instant since = 0;  // of the state
    int limit = 0;      // calls at once
    int in_flight = 0;
    double per_minute = 0;  // calls that the lowest known rate allows; 0 = none is known
    std::optional<Instant> next_try_at;  // of a probe, or the end of the requested wait
};

class ServiceGate {
 public:
    static constexpr int kFirstLimit = 16;
    static constexpr int kUnprovenLimit = 64;
    static constexpr int kFailuresToClose = 5;
    static constexpr int kRefusedKeysToClose = 3;
    static constexpr Instant kFirstProbePause = kMicrosPerSecond;
    static constexpr Instant kLongestProbePause = 30 * kMicrosPerSecond;
    // After this time another probe is sent while the first one continues.
    static constexpr Instant kSlowProbe = 10 * kMicrosPerSecond;
    // How far claims look ahead, so that a paced service does not need a claim for each call.
    static constexpr Instant kClaimLead = kMicrosPerSecond / 4;

    // One call in flight. Ends with end(), exactly once.
    struct Call {
        Instant started_at = 0;
        std::uint64_t number = 0;
        double tokens = 0;  // reserved for it
        bool is_probe = false;
    };

    explicit ServiceGate(const GateLimits& limits) { set_limits(limits); }
    void set_limits(const GateLimits& limits);

    bool may_start(Instant now);
    Call start(Instant now);  // even if it may not
    void end(const Call& call, const CallReport& report, Instant now);

    // When may_start() turns true if no call ends before; nullopt = only the end of one helps.
    std::optional<Instant> next_permit_at(Instant now);

    // How many missions may be claimed whose first call could be sent at once, or almost.
    // `pending` calls are about to be made or wait already.
    int claimable(Instant now, int pending);
    // When claimable() may next be larger; nullopt as for next_permit_at().
    std::optional<Instant> next_claim_at(Instant now, int pending);

    // Forgets everything: it was learned with another service or another key.
    void forget();

    // Whether the service has answered any call since.
    bool has_answered_since(Instant instant) const { return answered_ && answered_at_ >= instant; }
    // Whether it has also failed or refused other callers' calls: in this outage, or recently.
    bool has_failed_others(std::uint64_t caller, Instant now) const;
    bool is_closed() const { return closed_; }
    bool is_probing() const { return closed_ && probes_ > 0; }

    GateState state(Instant now) const;
    GateView view(Instant now);

 private:
    struct Bucket {
        double level = 0;
        double capacity = 0;
        double per_second = 0;
        Instant at = 0;  // of `level`

        double level_at(Instant now) const;
        void settle(Instant now);
        // When the level is reached; never in the past. nullopt = not by waiting.
        std::optional<Instant> reaches(double wanted, Instant now) const;
    };
    // What headers say; forgotten some time after the last one.
    struct Told {
        Bucket bucket;
        std::uint64_t by = 0;              // number of the call
        std::optional<Instant> refill_at;  // of a window: its end
        double refill = 0;
        Instant expires_at = 0;
    };

    template <class F>
    void each_bucket(F f);
    double need(bool of_tokens, const Bucket& bucket) const;
    double expected_tokens() const;
    int limit() const;
    void settle(Instant now);
    void grow(Instant now);
    bool is_growing_fast() const { return limit_ < threshold_; }
    Instant growth_pause() const;
    void on_answer(const Call& call, int in_flight, Instant now);
    void on_refusal(const Call& call, const CallReport& report, Instant now);
    void on_failure(const Call& call, const CallReport& report, Instant now);
    void count_failure(const CallReport& report, Instant now);
    void note_victim(std::uint64_t caller, Instant now);
    void shrink(const Call& call, double at_least, Instant now);
    void learn_rate(Instant now);
    void close(GateState why, Instant now);
    void reopen(Instant now);
    void put_off_probe(Instant now);
    void listen(std::optional<Told>& told, const std::optional<RateAllowance>& said,
                const Call& call, double unseen, Instant now);
    int accepted_within(Instant span, Instant now) const;
    int& starts_at(Instant instant);

    GateLimits limits_;

    // Concurrency.
    int in_flight_ = 0;
    double limit_ = kFirstLimit;
    double threshold_ = 1e9;  // below it the limit grows fast
    double limit_before_ = kFirstLimit;
    std::uint64_t shrunk_by_ = 0;  // calls up to this number give no new information
    Instant full_since_ = 0;
    bool answered_ = false;  // since the last outage
    Instant answered_at_ = 0;

    // Rate.
    std::uint64_t calls_ = 0;
    double tokens_per_call_ = 0;
    std::optional<Bucket> set_requests_;
    std::optional<Bucket> set_tokens_;
    std::optional<Bucket> learned_;
    std::optional<Told> told_requests_;
    std::optional<Told> told_tokens_;
    Instant paused_until_ = 0;
    bool refused_ = false;
    Instant refused_since_ = 0;       // of the last series of refusals: its begin,
    Instant refused_at_ = 0;          // and its newest
    std::uint64_t refused_from_ = 0;  // the first call that could belong to another series
    Instant idle_ = 0;                // since then: time in which calls could have been sent
    int accepted_ = 0;                // since then
    bool sample_is_first_ = true;
    double sample_accepted_ = 0;  // before it
    double sample_seconds_ = 1;
    double sample_rate_ = 0;
    std::uint64_t sample_from_ = 0;

    static constexpr std::size_t kSlots = 600;
    static constexpr Instant kSlot = kMicrosPerSecond / 10;
    std::array<int, kSlots> starts_{};  // accepted, as far as is known
    Instant newest_slot_ = 0;

    // Availability.
    bool closed_ = false;
    GateState why_closed_ = GateState::Unavailable;
    Instant since_ = 0;
    Instant failing_since_ = 0;
    Instant closed_at_ = 0;
    Instant probe_at_ = 0;
    int probes_ = 0;  // under way
    int failures_ = 0;
    std::uint64_t old_until_ = 0;  // calls up to this number say nothing about its present state
    int refused_keys_ = 0;
    int forbidden_ = 0;
    bool sure_ = false;
    bool several_callers_ = false;
    std::uint64_t failed_caller_ = 0;

    // The caller whose calls have last failed or been refused.
    struct Victim {
        std::uint64_t caller = 0;
        Instant at = 0;  // 0 = there is none
    };
    Victim last_victim_;
    Victim other_victim_;  // the last one with a different caller
};

}  // namespace mana_ai::core
