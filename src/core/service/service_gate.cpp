#include "mana_ai/core/service/service_gate.hpp"

#include <algorithm>
#include <cmath>

namespace mana_ai::core {

namespace {

constexpr double kSmallestLimit = 2;
constexpr double kLimitAfterOutage = 8;
constexpr double kShrink = 0.7;
constexpr Instant kGrowthPause = kMicrosPerSecond / 5;
constexpr Instant kUnprovenGrowthPause = kMicrosPerSecond;

constexpr double kSlowestRate = 1.0 / 60;  // calls per second
constexpr double kBelowSample = 0.9;
constexpr double kBelowLastMinute = 0.7;
constexpr double kBurstSeconds = 0.05;
constexpr Instant kSeriesBelongTogether = 5 * kMicrosPerMinute;
constexpr Instant kLimitedFor = kMicrosPerMinute;
// A single reply's Retry-After does not stop all calls for longer: after that a call is tried.
constexpr Instant kLongestPause = kMicrosPerMinute;
constexpr double kFirstGuessOfTokens = 2000;
constexpr double kWindowRefillSeconds = 20;
constexpr double kLongestDebtSeconds = 60;  // after a rate was lowered
constexpr Instant kToldIsGood = 2 * kMicrosPerMinute;

double seconds(Instant span) {
    return static_cast<double>(span) / static_cast<double>(kMicrosPerSecond);
}

Instant micros(double span) {
    return static_cast<Instant>(
        std::ceil(std::min(span, 1e9) * static_cast<double>(kMicrosPerSecond)));
}

}  // namespace

const char* name(GateState state) noexcept {
    switch (state) {
        case GateState::Open:
            return "open";
        case GateState::Limited:
            return "limited";
        case GateState::Unavailable:
            return "unavailable";
        case GateState::KeyRefused:
            return "key_refused";
    }
    return "open";
}

// ---- buckets -----------------------------------------------------------------------------------

double ServiceGate::Bucket::level_at(Instant now) const {
    return now <= at ? level : std::min(capacity, level + per_second * seconds(now - at));
}

void ServiceGate::Bucket::settle(Instant now) {
    level = level_at(now);
    at = std::max(at, now);
}

std::optional<Instant> ServiceGate::Bucket::reaches(double wanted, Instant now) const {
    // Rounding must not keep a permit a moment away for ever.
    constexpr double kNothing = 1e-6;
    const double missing = wanted - level_at(now);
    if (missing <= kNothing) {
        return now;
    }
    if (per_second <= 0) {
        return std::nullopt;
    }
    return std::max(now, at) + micros(missing / per_second);
}

template <class F>
void ServiceGate::each_bucket(F f) {
    if (set_requests_) {
        f(*set_requests_, false, nullptr);
    }
    if (learned_) {
        f(*learned_, false, nullptr);
    }
    if (told_requests_) {
        f(told_requests_->bucket, false, &*told_requests_);
    }
    if (set_tokens_) {
        f(*set_tokens_, true, nullptr);
    }
    if (told_tokens_) {
        f(told_tokens_->bucket, true, &*told_tokens_);
    }
}

double ServiceGate::expected_tokens() const {
    return tokens_per_call_ > 0 ? tokens_per_call_ : kFirstGuessOfTokens;
}

// A call that is larger than the whole allowance is sent when the allowance is complete.
double ServiceGate::need(bool of_tokens, const Bucket& bucket) const {
    return of_tokens ? std::min(expected_tokens(), bucket.capacity) : 1.0;
}

void ServiceGate::set_limits(const GateLimits& limits) {
    if (limits == limits_) {
        return;
    }
    limits_ = limits;
    limits_.max_concurrency = std::max(1, limits.max_concurrency);
    // Used permits stay used.
    const auto set = [](std::optional<Bucket>& bucket, double per_second, double capacity) {
        if (per_second <= 0) {
            bucket.reset();
            return;
        }
        const Bucket before = bucket.value_or(Bucket{capacity, capacity, per_second, 0});
        // A debt that was made at a higher rate would take long at a lower one.
        const double lowest =
            per_second < before.per_second ? -per_second * kLongestDebtSeconds : before.level;
        bucket = Bucket{std::clamp(before.level, std::min(lowest, capacity), capacity), capacity,
                        per_second, before.at};
    };
    const double requests = limits.requests_per_minute / 60;
    set(set_requests_, requests, std::max(1.0, requests * kBurstSeconds));
    const double tokens = limits.tokens_per_minute / 60;
    set(set_tokens_, tokens, tokens * 10);
}

void ServiceGate::forget() {
    const int in_flight = in_flight_;
    const int probes = probes_;
    const std::uint64_t calls = calls_;
    const GateLimits limits = limits_;
    *this = ServiceGate(limits);
    in_flight_ = in_flight;
    probes_ = probes;
    calls_ = calls;
    shrunk_by_ = refused_from_ = sample_from_ = old_until_ = calls;
}

// ---- concurrency -------------------------------------------------------------------------------

int ServiceGate::limit() const {
    return static_cast<int>(std::clamp(limit_, 1.0, static_cast<double>(limits_.max_concurrency)));
}

// It is unknown whether a service that has not answered yet can handle more.
Instant ServiceGate::growth_pause() const {
    const bool is_proven = answered_ || limit_ * 2 <= kUnprovenLimit;
    return is_proven && !learned_ ? kGrowthPause : kUnprovenGrowthPause;
}

// Growth does not wait for the replies of a slow service, since refusals arrive fast.
void ServiceGate::grow(Instant now) {
    while (!closed_ && is_growing_fast() && in_flight_ >= limit() &&
           limit() < limits_.max_concurrency && now - full_since_ >= growth_pause()) {
        full_since_ += growth_pause();
        limit_ = std::min({limit_ * 2, threshold_, static_cast<double>(limits_.max_concurrency)});
    }
}

// At most once per round trip, however many calls fail in it.
void ServiceGate::shrink(const Call& call, double at_least, Instant now) {
    if (call.number > shrunk_by_) {
        shrunk_by_ = calls_;
        limit_before_ = std::min(limit_, static_cast<double>(limits_.max_concurrency));
    }
    limit_ = std::min(limit_, std::max({limit_before_ * kShrink, at_least, kSmallestLimit}));
    full_since_ = now;
}

// ---- rate --------------------------------------------------------------------------------------

int& ServiceGate::starts_at(Instant instant) {
    const Instant slot = instant / kSlot;
    for (; newest_slot_ < slot; ++newest_slot_) {
        if (slot - newest_slot_ > static_cast<Instant>(kSlots)) {
            newest_slot_ = slot - static_cast<Instant>(kSlots);
        }
        starts_[static_cast<std::size_t>(newest_slot_ + 1) % kSlots] = 0;
    }
    return starts_[static_cast<std::size_t>(slot) % kSlots];
}

int ServiceGate::accepted_within(Instant span, Instant now) const {
    int sum = 0;
    for (Instant slot = now / kSlot; slot > (now - span) / kSlot && slot > 0; --slot) {
        if (slot <= newest_slot_ && newest_slot_ - slot < static_cast<Instant>(kSlots)) {
            sum += starts_[static_cast<std::size_t>(slot) % kSlots];
        }
    }
    return sum;
}

// From the calls that were accepted between this series of refusals and the previous one. For the
// first series, from the best second, ten seconds or minute so far; the next series corrects an
// estimate that is too high.
void ServiceGate::learn_rate(Instant now) {
    const double minute = accepted_within(kMicrosPerMinute, now) / 60.0;
    double sample = 0;
    if (sample_is_first_) {
        sample = std::max({static_cast<double>(accepted_within(kMicrosPerSecond, now)),
                           accepted_within(10 * kMicrosPerSecond, now) / 10.0, minute, 1.0});
    } else {
        sample = sample_accepted_ / std::max(1.0, sample_seconds_);
    }
    double rate = std::max(kBelowSample * sample, kBelowLastMinute * minute);
    if (sample_rate_ > 0) {
        rate = std::min(rate, 0.95 * sample_rate_);
    }
    rate = std::max(rate, kSlowestRate);
    if (!learned_) {
        learned_ = Bucket{0, 1, rate, now};
    }
    learned_->settle(now);
    learned_->per_second = rate;
    learned_->capacity = std::max(1.0, rate * kBurstSeconds);
    learned_->level = std::min(learned_->level, learned_->capacity);
}

void ServiceGate::on_refusal(const Call& call, const CallReport& report, Instant now) {
    const bool is_new_series = !refused_ || call.number >= refused_from_;
    if (int& starts = starts_at(call.started_at);
        newest_slot_ - call.started_at / kSlot < static_cast<Instant>(kSlots)) {
        starts = std::max(0, starts - 1);
    }
    if (is_new_series) {
        sample_is_first_ = !refused_ || now - refused_since_ > kSeriesBelongTogether;
        sample_accepted_ = std::max(0, accepted_ - 1);
        sample_seconds_ = seconds(now - refused_since_ - idle_);
        sample_rate_ = learned_ ? learned_->per_second : 0;
        sample_from_ = refused_from_;
        refused_ = true;
        refused_since_ = now;
        refused_from_ = calls_ + 1;
        idle_ = 0;
        accepted_ = 0;
    } else if (call.number >= sample_from_) {
        sample_accepted_ = std::max(0.0, sample_accepted_ - 1);
    }
    refused_at_ = now;
    learn_rate(now);
    if (report.retry_after) {
        paused_until_ = std::max(paused_until_, now + std::min(*report.retry_after, kLongestPause));
        if (learned_->at < paused_until_) {
            learned_->at = paused_until_;
            learned_->level = 1;
        }
    }
    // The calls in flight were accepted, so that concurrency is possible. Whether more is possible
    // stays open, since the refusal was because of the rate.
    shrink(call, in_flight_, now);
}

// Headers describe a bucket of the service, of which we keep a copy. Calls that were sent after the
// one that returned the headers may or may not be included; they are subtracted.
void ServiceGate::listen(std::optional<Told>& told, const std::optional<RateAllowance>& said,
                         const Call& call, double unseen, Instant now) {
    if (!said || (told && call.number < told->by)) {
        return;
    }
    Told next;
    next.by = call.number;
    const double gone = said->limit - said->remaining;
    const bool is_window = said->is_window && said->reset_after.has_value();
    double per_second = said->limit / 60;
    if (is_window) {
        per_second = 0;
        next.refill_at = now + *said->reset_after;
        next.refill = said->limit / kWindowRefillSeconds;
    } else if (said->reset_after && gone > 0) {
        per_second = gone / std::max(seconds(*said->reset_after), 1e-3);
    } else if (told) {
        per_second = told->bucket.per_second;
    }
    const double since = is_window ? 0 : per_second * seconds(now - call.started_at);
    next.bucket = Bucket{std::clamp(said->remaining - unseen + since, 0.0, said->limit),
                         said->limit, per_second, now};
    next.expires_at = now + said->reset_after.value_or(0) + kToldIsGood;
    told = next;
}

// ---- availability ------------------------------------------------------------------------------

void ServiceGate::close(GateState why, Instant now) {
    closed_ = true;
    why_closed_ = why;
    since_ = failing_since_;
    closed_at_ = now;
    put_off_probe(now);
}

// The pauses grow with the outage, so the service's return is detected within a fifth of its
// duration.
void ServiceGate::put_off_probe(Instant now) {
    probe_at_ = now + std::clamp((now - closed_at_) / 5, kFirstProbePause, kLongestProbePause);
}

void ServiceGate::reopen(Instant now) {
    closed_ = false;
    since_ = now;
    failures_ = refused_keys_ = forbidden_ = 0;
    // Waiting calls resume gradually, but fast.
    threshold_ = std::max(limit_, static_cast<double>(kFirstLimit));
    limit_ = std::min(threshold_, std::max<double>(kLimitAfterOutage, in_flight_));
    full_since_ = now;
    shrunk_by_ = old_until_ = calls_;
}

void ServiceGate::count_failure(const CallReport& report, Instant now) {
    if (failures_ == 0) {
        failing_since_ = now;
        sure_ = several_callers_ = false;
        failed_caller_ = report.caller;
        refused_keys_ = forbidden_ = 0;
    }
    failures_++;
    several_callers_ |= report.caller != failed_caller_;
    sure_ |= report.end == CallEnd::Down;
    refused_keys_ += report.end == CallEnd::KeyRefused ? 1 : 0;
    forbidden_ += report.end == CallEnd::Forbidden ? 1 : 0;
    if (refused_keys_ >= kRefusedKeysToClose) {
        close(GateState::KeyRefused, now);
    } else if (failures_ >= kFailuresToClose && (sure_ || several_callers_)) {
        const bool all_of_key = refused_keys_ + forbidden_ == failures_;
        close(all_of_key ? GateState::KeyRefused : GateState::Unavailable, now);
    }
}

void ServiceGate::note_victim(std::uint64_t caller, Instant now) {
    if (last_victim_.caller != caller) {
        other_victim_ = last_victim_;
    }
    last_victim_ = {caller, now};
}

bool ServiceGate::has_failed_others(std::uint64_t caller, Instant now) const {
    const Victim& victim = last_victim_.caller == caller ? other_victim_ : last_victim_;
    return victim.at > 0 && victim.at >= (closed_ ? failing_since_ : now - kLimitedFor);
}

void ServiceGate::on_failure(const Call& call, const CallReport& report, Instant now) {
    note_victim(report.caller, now);
    const bool is_of_key = report.end == CallEnd::KeyRefused || report.end == CallEnd::Forbidden;
    if (report.end == CallEnd::Refused) {
        on_refusal(call, report, now);
        // It said when to retry, so it is available.
        if (report.retry_after) {
            failures_ = 0;
            if (call.is_probe) {
                reopen(now);
            }
            return;
        }
    } else if (!is_of_key) {
        if (!closed_) {
            shrink(call, 0, now);
            threshold_ = limit_;
        }
        answered_ &= !closed_;
        if (report.retry_after) {
            paused_until_ =
                std::max(paused_until_, now + std::min(*report.retry_after, kLongestProbePause));
        }
    }
    if (!closed_) {
        if (call.number > old_until_) {
            count_failure(report, now);
        }
    } else if (call.is_probe) {
        why_closed_ = is_of_key ? GateState::KeyRefused : GateState::Unavailable;
        put_off_probe(now);
    }
}

void ServiceGate::on_answer(const Call& call, int in_flight, Instant now) {
    answered_ = true;
    answered_at_ = now;
    if (closed_) {
        // Other calls in flight give no information about the service's present state.
        if (call.is_probe) {
            reopen(now);
        }
        return;
    }
    failures_ = 0;
    if (in_flight * 2 >= limit()) {
        limit_ += is_growing_fast() ? 1 : std::max(1.0, limit_ / 16) / limit_;
        limit_ = std::min(limit_, static_cast<double>(limits_.max_concurrency));
    }
    if (learned_ && call.number >= refused_from_) {
        // Per second and relative to the rate: slowly at first, faster the longer nothing is
        // refused.
        const double well_for = seconds(std::max<Instant>(now - refused_at_, 0));
        const double growth = std::min(0.5, 0.01 + 0.0005 * well_for * well_for);
        learned_->settle(now);
        learned_->per_second = std::min(learned_->per_second + growth, 1e6);
        learned_->capacity = std::max(1.0, learned_->per_second * kBurstSeconds);
    }
}

// ---- the calls ---------------------------------------------------------------------------------

void ServiceGate::settle(Instant now) {
    for (std::optional<Told>* told : {&told_requests_, &told_tokens_}) {
        if (!*told) {
            continue;
        }
        if ((*told)->refill_at && now >= *(*told)->refill_at) {
            Bucket& bucket = (*told)->bucket;
            bucket.at = std::max(bucket.at, *(*told)->refill_at);
            bucket.level = std::max(bucket.level, need(told == &told_tokens_, bucket));
            bucket.per_second = (*told)->refill;
            (*told)->refill_at.reset();
        }
        if (now >= (*told)->expires_at) {
            told->reset();
        }
    }
    if (learned_ && now > learned_->at) {
        const double to_full = (learned_->capacity - learned_->level) / learned_->per_second;
        idle_ += std::max<Instant>(0, now - learned_->at - micros(std::max(0.0, to_full)));
    }
    each_bucket([now](Bucket& bucket, bool, Told*) { bucket.settle(now); });
    grow(now);
}

bool ServiceGate::may_start(Instant now) {
    if (now < paused_until_) {
        return false;
    }
    if (closed_) {
        return now >= probe_at_;
    }
    settle(now);
    if (in_flight_ >= limit()) {
        return false;
    }
    bool allowed = true;
    each_bucket([&](Bucket& bucket, bool of_tokens, Told*) {
        allowed &= bucket.reaches(need(of_tokens, bucket), now) == now;
    });
    return allowed;
}

ServiceGate::Call ServiceGate::start(Instant now) {
    settle(now);
    Call call;
    call.started_at = now;
    call.number = ++calls_;
    call.tokens = expected_tokens();
    call.is_probe = closed_ && now >= probe_at_;
    if (call.is_probe) {
        probes_++;
        put_off_probe(now);
        probe_at_ = std::max(probe_at_, now + kSlowProbe);
    }
    in_flight_++;
    if (in_flight_ == limit()) {
        full_since_ = now;
    }
    starts_at(now)++;
    accepted_++;
    each_bucket([&](Bucket& bucket, bool of_tokens, Told*) {
        bucket.level -= of_tokens ? call.tokens : 1;
    });
    return call;
}

void ServiceGate::end(const Call& call, const CallReport& report, Instant now) {
    settle(now);
    const int in_flight = in_flight_--;
    probes_ -= call.is_probe ? 1 : 0;
    for (const bool told : {false, true}) {
        Bucket* const bucket = told ? (told_tokens_ ? &told_tokens_->bucket : nullptr)
                                    : (set_tokens_ ? &*set_tokens_ : nullptr);
        if (bucket != nullptr) {
            bucket->level = std::min(bucket->capacity, bucket->level + call.tokens - report.tokens);
        }
    }
    if (report.tokens > 0) {
        tokens_per_call_ =
            tokens_per_call_ > 0 ? 0.9 * tokens_per_call_ + 0.1 * report.tokens : report.tokens;
    }
    const double unseen = static_cast<double>(calls_ - call.number);
    listen(told_requests_, report.rates.requests, call, unseen, now);
    listen(told_tokens_, report.rates.tokens, call, unseen * expected_tokens(), now);
    switch (report.end) {
        case CallEnd::Answered:
            on_answer(call, in_flight, now);
            break;
        case CallEnd::Refused:
        case CallEnd::Down:
        case CallEnd::Suspect:
        case CallEnd::KeyRefused:
        case CallEnd::Forbidden:
            on_failure(call, report, now);
            break;
        case CallEnd::Dropped:
            break;
    }
    if (call.is_probe && closed_ && report.end == CallEnd::Dropped) {
        probe_at_ = now;
    }
}

std::optional<Instant> ServiceGate::next_permit_at(Instant now) {
    if (closed_) {
        return std::max({now, probe_at_, paused_until_});
    }
    settle(now);
    Instant at = std::max(now, paused_until_);
    if (in_flight_ >= limit()) {
        if (!is_growing_fast() || limit() >= limits_.max_concurrency) {
            return std::nullopt;
        }
        at = std::max(at, full_since_ + growth_pause());
    }
    each_bucket([&](Bucket& bucket, bool of_tokens, Told* told) {
        const auto reached = bucket.reaches(need(of_tokens, bucket), now);
        at = std::max(at, reached ? *reached : told ? told->refill_at.value_or(now) : now);
    });
    return at;
}

int ServiceGate::claimable(Instant now, int pending) {
    if (closed_) {
        return may_start(now) && pending == 0 ? 1 : 0;
    }
    settle(now);
    if (now + kClaimLead <= paused_until_) {
        return 0;
    }
    double permits = limit() - in_flight_;
    each_bucket([&](Bucket& bucket, bool of_tokens, Told*) {
        const double needed = need(of_tokens, bucket);
        const double ahead = bucket.level + bucket.per_second * seconds(kClaimLead);
        permits = std::min(permits, ahead / needed + 1e-6);
    });
    return static_cast<int>(std::floor(std::max(0.0, permits - pending)));
}

std::optional<Instant> ServiceGate::next_claim_at(Instant now, int pending) {
    if (closed_) {
        return pending > 0 ? std::nullopt : next_permit_at(now);
    }
    const bool now_is_the_time = claimable(now, pending) > 0;
    Instant at = std::max(now, paused_until_ - kClaimLead);
    if (in_flight_ + pending >= limit()) {
        if (!is_growing_fast() || limit() >= limits_.max_concurrency || in_flight_ < limit()) {
            return std::nullopt;
        }
        at = std::max(at, full_since_ + growth_pause());
    }
    each_bucket([&](Bucket& bucket, bool of_tokens, Told* told) {
        const double needed = need(of_tokens, bucket);
        const double lead = bucket.per_second * seconds(kClaimLead);
        const double batch = pending == 0 ? 1 : std::max(1.0, lead / needed / 2) + pending;
        const double wanted = batch * needed - lead;
        const auto reached = bucket.reaches(wanted, now);
        at = std::max(at, reached ? *reached : told ? told->refill_at.value_or(now) : now);
    });
    return now_is_the_time ? at : std::max(at, now + 1);
}

// ---- views -------------------------------------------------------------------------------------

GateState ServiceGate::state(Instant now) const {
    if (closed_) {
        return why_closed_;
    }
    if (now < paused_until_ || (refused_ && now - refused_at_ < kLimitedFor)) {
        return GateState::Limited;
    }
    return GateState::Open;
}

GateView ServiceGate::view(Instant now) {
    GateView view;
    view.state = state(now);
    view.since = view.state == GateState::Limited ? refused_since_ : since_;
    view.limit = limit();
    view.in_flight = in_flight_;
    each_bucket([&](Bucket& bucket, bool of_tokens, Told*) {
        const double rate = bucket.per_second * 60 / (of_tokens ? expected_tokens() : 1);
        if (rate > 0) {
            view.per_minute = view.per_minute > 0 ? std::min(view.per_minute, rate) : rate;
        }
    });
    if (closed_) {
        view.next_try_at = std::max(probe_at_, paused_until_);
    } else if (now < paused_until_) {
        view.next_try_at = paused_until_;
    }
    return view;
}

}  // namespace mana_ai::core
