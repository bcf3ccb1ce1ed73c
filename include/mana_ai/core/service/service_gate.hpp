// Whether another call may go out to a service now: how many at once, how many in a time, and
// whether it is there at all. Learned from how calls end (docs/operations.md, "When the provider
// says no").
//
// Pure: knows neither clock nor network. All instants are on one clock that never goes back.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>

#include "mana_ai/core/service/rate_headers.hpp"
#include "mana_ai/core/time/instant.hpp"

namespace mana_ai::core {

// How a call ended, as far as it says something about the service.
enum class CallEnd {
    Answered,    // it did its work, whatever it thought of the request
    Refused,     // too many requests
    Down,        // surely the service's failure: no connection, 503, no provider
    Suspect,     // its failure or that of this one request: a timeout, a lost connection, 500
    KeyRefused,  // our key is not accepted
    Forbidden,   // our key may not do this, or this one request: 403
    Dropped,     // given up by us; says nothing
};

struct GateLimits {
    int max_concurrency = 1;
    double requests_per_minute = 0;  // 0 = learned only
    double tokens_per_minute = 0;    // likewise

    bool operator==(const GateLimits&) const = default;
};

struct CallReport {
    CallEnd end = CallEnd::Answered;
    std::uint64_t caller = 0;            // who it was for: the same mission, the same number
    std::optional<Instant> retry_after;  // a delay
    RateHeaders rates;
    double tokens = 0;  // used; 0 = not known
};

enum class GateState {
    Open,         // nothing stands in the way
    Limited,      // the service has refused calls for their number a moment ago, or asked to wait
    Unavailable,  // it has failed again and again; a probe now and then
    KeyRefused,   // likewise, since it does not accept our key
};

const char* name(GateState state) noexcept;  // "open", "limited", "unavailable", "key_refused"

struct GateView {
    GateState state = GateState::Open;
    Instant since = 0;  // of the state
    int limit = 0;      // calls at once
    int in_flight = 0;
    double per_minute = 0;  // calls that the narrowest of the known rates allows; 0 = none is known
    std::optional<Instant> next_try_at;  // of a probe, or the end of the time that it asked for
};

class ServiceGate {
 public:
    static constexpr int kFirstLimit = 16;
    static constexpr int kUnprovenLimit = 64;
    static constexpr int kFailuresToClose = 5;
    static constexpr int kRefusedKeysToClose = 3;
    static constexpr Instant kFirstProbePause = kMicrosPerSecond;
    static constexpr Instant kLongestProbePause = 30 * kMicrosPerSecond;
    // Another probe goes out beside one that has taken so long.
    static constexpr Instant kSlowProbe = 10 * kMicrosPerSecond;
    // Claims look so far ahead, so that there need not be one for each call of a paced service.
    static constexpr Instant kClaimLead = kMicrosPerSecond / 4;

    // One call under way. Ends with end(), exactly once.
    struct Call {
        Instant started_at = 0;
        std::uint64_t number = 0;
        double tokens = 0;  // taken for it in advance
        bool is_probe = false;
    };

    explicit ServiceGate(const GateLimits& limits) { set_limits(limits); }
    void set_limits(const GateLimits& limits);

    bool may_start(Instant now);
    Call start(Instant now);  // even if it may not
    void end(const Call& call, const CallReport& report, Instant now);

    // When may_start() turns true if no call ends before; nullopt = only the end of one helps.
    std::optional<Instant> next_permit_at(Instant now);

    // How many missions may be claimed whose first call would go out at once, or nearly so.
    // `pending` calls are on their way already or wait.
    int claimable(Instant now, int pending);
    // When claimable() is next worth asking; nullopt as for next_permit_at().
    std::optional<Instant> next_claim_at(Instant now, int pending);

    // Everything that was learned belongs to another service or another key.
    void forget();

    // Whether the service has answered any call since.
    bool has_answered_since(Instant instant) const { return answered_ && answered_at_ >= instant; }
    // Whether it has failed or refused somebody else's calls too: in this outage, or lately.
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
        // When the level is there; never in the past. nullopt = not by waiting.
        std::optional<Instant> reaches(double wanted, Instant now) const;
    };
    // What headers say; forgotten some time after the last of them.
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
    std::uint64_t shrunk_by_ = 0;  // calls up to this number say nothing new
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
    std::uint64_t refused_from_ = 0;  // the first call that could tell of another one
    Instant idle_ = 0;                // since then: time in which calls could have gone out
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

    // Whether the service is there.
    bool closed_ = false;
    GateState why_closed_ = GateState::Unavailable;
    Instant since_ = 0;
    Instant failing_since_ = 0;
    Instant closed_at_ = 0;
    Instant probe_at_ = 0;
    int probes_ = 0;  // under way
    int failures_ = 0;
    std::uint64_t old_until_ = 0;  // calls up to this number say nothing of it as it is now
    int refused_keys_ = 0;
    int forbidden_ = 0;
    bool sure_ = false;
    bool several_callers_ = false;
    std::uint64_t failed_caller_ = 0;

    // Whose calls have failed or were refused last.
    struct Victim {
        std::uint64_t caller = 0;
        Instant at = 0;  // 0 = there is none
    };
    Victim last_victim_;
    Victim other_victim_;  // the last one that is another caller
};

}  // namespace mana_ai::core
