#include "mana_ai/core/service/service_gate.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <deque>
#include <functional>
#include <queue>
#include <random>
#include <string>
#include <utility>
#include <vector>

namespace mana_ai::core {
namespace {

constexpr Instant kSecond = kMicrosPerSecond;

Instant ms(std::int64_t millis) {
    return millis * 1000;
}

struct Provider {
    double per_second = 0;  // 0 = no limit
    double burst = 1;
    bool tells_retry_after = true;
    bool is_window = false;  // burst calls in burst/per_second seconds, all back at its end
    int at_once = 0;         // 0 = no limit; more are refused with 503
    Instant latency = ms(400);
    Instant refusal_latency = ms(20);
    Instant down_from = 0, down_until = 0;
    bool tells_limits = false;  // in headers, as OpenAI does

    double level = -1;
    Instant at = 0;
    int busy = 0;
    int most_busy = 0;
};

// Missions with some rounds each, run by an engine as simple as can be: it claims what the gate
// lets it, and calls of later rounds go before the first ones.
class Simulation {
 public:
    Simulation(const GateLimits& limits, Provider provider, std::uint64_t seed = 1)
        : provider(provider), gate(limits), random_(seed) {}

    Provider provider;
    ServiceGate gate;
    Instant now = kSecond;
    int due = 0;     // not claimed
    int rounds = 2;  // of each mission
    int done = 0;
    int calls = 0, refused = 0, failed = 0;
    int calls_while_down = 0;
    int most_in_flight = 0;
    Instant longest_wait = 0;
    Instant finished_at = 0;

    void add(int missions) { due += missions; }

    // Until everything is done; false when that takes longer.
    bool run(Instant limit) {
        const Instant begun = now;
        int wanted = done + due + static_cast<int>(waiting_.size()) + under_way_;
        for (int steps = 0; done < wanted; ++steps) {
            if (now - begun > limit || steps > 5'000'000) {
                return false;
            }
            pump();
            if (done >= wanted) {
                break;
            }
            Instant next = now + 60 * kSecond;
            if (!events_.empty()) {
                next = std::min(next, events_.top().at);
            }
            if (!waiting_.empty()) {
                next = std::min(next, gate.next_permit_at(now).value_or(next));
            }
            if (due > 0) {
                next = std::min(next, gate.next_claim_at(now, pending()).value_or(next));
            }
            EXPECT_GE(next, now);
            now = std::max(next, now + 1);
            while (!events_.empty() && events_.top().at <= now) {
                const auto what = events_.top().what;
                events_.pop();
                what();
            }
        }
        finished_at = now;
        return true;
    }

 private:
    struct Event {
        Instant at;
        std::uint64_t order;
        std::function<void()> what;
        bool operator<(const Event& other) const {
            return at != other.at ? at > other.at : order > other.order;
        }
    };
    struct Waiting {
        int rounds_left;
        std::uint64_t mission;
        Instant since;
    };

    int pending() const { return static_cast<int>(waiting_.size()); }

    void at(Instant when, std::function<void()> what) {
        events_.push({when, order_++, std::move(what)});
    }

    void pump() {
        for (int can = gate.claimable(now, pending()); can > 0 && due > 0;
             can = gate.claimable(now, pending())) {
            for (; can > 0 && due > 0; --can, --due) {
                waiting_.push_back({rounds, ++missions_, now});
            }
        }
        while (!waiting_.empty() && gate.may_start(now)) {
            const Waiting next = waiting_.front();
            waiting_.pop_front();
            longest_wait = std::max(longest_wait, now - next.since);
            send(next);
        }
    }

    void send(const Waiting& run) {
        const ServiceGate::Call call = gate.start(now);
        ++under_way_;
        ++calls;
        most_in_flight = std::max(most_in_flight, ++in_flight_);
        CallReport report;
        report.caller = run.mission;
        report.tokens = 1000;
        Instant takes = provider.latency + ms(static_cast<std::int64_t>(random_() % 50));
        const bool is_down = now >= provider.down_from && now < provider.down_until;
        bool accepted = false;
        if (is_down) {
            report.end = CallEnd::Down;
            ++calls_while_down;
        } else if (!take()) {
            report.end = CallEnd::Refused;
            if (provider.tells_retry_after) {
                report.retry_after = retry_after();
            }
        } else if (provider.at_once > 0 && provider.busy >= provider.at_once) {
            report.end = CallEnd::Down;
        } else {
            accepted = true;
            provider.most_busy = std::max(provider.most_busy, ++provider.busy);
        }
        if (provider.tells_limits) {
            const double gone = provider.burst - std::max(0.0, provider.level);
            report.rates.requests =
                RateAllowance{provider.burst, std::floor(std::max(0.0, provider.level)),
                              static_cast<Instant>(gone / provider.per_second * 1e6), false};
        }
        if (!accepted) {
            takes = provider.refusal_latency;
        }
        at(now + takes, [this, call, report, run, accepted] {
            gate.end(call, report, now);
            --in_flight_;
            --under_way_;
            provider.busy -= accepted ? 1 : 0;
            refused += report.end == CallEnd::Refused ? 1 : 0;
            failed += report.end == CallEnd::Down ? 1 : 0;
            if (!accepted) {
                waiting_.push_front({run.rounds_left, run.mission, now});
            } else if (run.rounds_left > 1) {
                waiting_.push_front({run.rounds_left - 1, run.mission, now});
            } else {
                ++done;
            }
        });
    }

    bool take() {
        if (provider.per_second <= 0) {
            return true;
        }
        if (provider.level < 0) {
            provider.level = provider.burst;
            provider.at = now;
        }
        if (provider.is_window) {
            const auto window = static_cast<Instant>(provider.burst / provider.per_second * 1e6);
            if (now >= provider.at + window) {
                provider.level = provider.burst;
                provider.at = now - (now - provider.at) % window;
            }
        } else {
            provider.level = std::min(
                provider.burst, provider.level + provider.per_second * (now - provider.at) / 1e6);
            provider.at = now;
        }
        if (provider.level < 1) {
            return false;
        }
        provider.level -= 1;
        return true;
    }

    Instant retry_after() const {
        if (!provider.is_window) {
            return kSecond;
        }
        const auto window = static_cast<Instant>(provider.burst / provider.per_second * 1e6);
        return provider.at + window - now;
    }

    std::mt19937_64 random_;
    std::priority_queue<Event> events_;
    std::uint64_t order_ = 0;
    std::deque<Waiting> waiting_;
    std::uint64_t missions_ = 0;
    int in_flight_ = 0;
    int under_way_ = 0;
};

double took(const Simulation& simulation) {
    return static_cast<double>(simulation.finished_at - kSecond) / 1e6;
}

TEST(ServiceGate, ARateIsLearnedFromRefusals) {
    Provider provider;
    provider.per_second = 10;
    provider.burst = 10;
    Simulation simulation({64}, provider);
    simulation.add(150);
    ASSERT_TRUE(simulation.run(60 * kSecond));
    // 300 calls, of which ten go out at once.
    EXPECT_LT(took(simulation), 1.25 * 29);
    EXPECT_LT(simulation.refused, 0.05 * simulation.calls);
    EXPECT_EQ(simulation.gate.state(simulation.now), GateState::Limited);
    EXPECT_NEAR(simulation.gate.view(simulation.now).per_minute, 600, 200);
}

TEST(ServiceGate, WhatHeadersSayIsNotExceeded) {
    Provider provider;
    provider.per_second = 10;
    provider.burst = 60;
    provider.tells_limits = true;
    Simulation simulation({64}, provider);
    simulation.add(300);
    ASSERT_TRUE(simulation.run(120 * kSecond));
    EXPECT_LT(took(simulation), 1.25 * 54);
    EXPECT_LE(simulation.refused, 6);
    EXPECT_GT(simulation.most_in_flight, 15) << "the allowance that is there may be used at once";
}

TEST(ServiceGate, AnOutageCostsFewCallsAndEndsSoon) {
    for (const Instant outage : {40 * kSecond, 600 * kSecond}) {
        Provider provider;
        provider.down_from = 0;
        provider.down_until = kSecond + outage;
        Simulation simulation({64}, provider);
        simulation.add(100);
        ASSERT_TRUE(simulation.run(outage + 60 * kSecond));
        EXPECT_LE(simulation.calls_while_down, 60);
        EXPECT_LT(simulation.finished_at,
                  provider.down_until + (outage < 60 * kSecond ? 15 : 40) * kSecond);
        EXPECT_EQ(simulation.gate.state(simulation.now), GateState::Open);
    }
}

TEST(ServiceGate, AnOutageInTheMiddleLosesNothing) {
    Provider provider;
    provider.down_from = 3 * kSecond;
    provider.down_until = 23 * kSecond;
    Simulation simulation({500}, provider);
    simulation.add(5000);
    ASSERT_TRUE(simulation.run(120 * kSecond));
    EXPECT_LE(simulation.calls_while_down, 500 + 30) << "those in flight, and probes";
    EXPECT_LT(simulation.finished_at, 40 * kSecond);
}

TEST(ServiceGate, TwoThousandAreInFlightWithinAFewRoundTrips) {
    Provider provider;
    provider.latency = 5 * kSecond;
    Simulation simulation({2000}, provider);
    simulation.add(8000);
    ASSERT_TRUE(simulation.run(200 * kSecond));
    EXPECT_EQ(simulation.most_in_flight, 2000);
    // 16,000 calls, of which 2000 at a time take 5 s.
    EXPECT_LT(took(simulation), 40 + 3 * 5);
}

TEST(ServiceGate, ConcurrencyAdaptsToWhatAServiceBears) {
    Provider provider;
    provider.at_once = 40;
    Simulation simulation({500}, provider);
    simulation.add(2000);
    ASSERT_TRUE(simulation.run(600 * kSecond));
    EXPECT_LT(took(simulation), 2 * 4000 * 0.425 / 40);
    EXPECT_LT(simulation.failed, simulation.calls / 5);
}

// For any provider: the work ends in a time that has to do with what the provider can do, and with
// few refusals.
TEST(ServiceGate, RandomProvidersAreUsedWellAndNotOverrun) {
    std::mt19937_64 random(11);
    const auto between = [&](double low, double high) {
        return low * std::pow(high / low, std::uniform_real_distribution<double>(0, 1)(random));
    };
    for (int seed = 0; seed < 300; ++seed) {
        Provider provider;
        provider.per_second = between(0.5, 200);
        provider.burst = std::max(2.0, std::floor(between(2, 100)));
        provider.tells_retry_after = random() % 4 != 0;
        provider.is_window = provider.tells_retry_after && random() % 3 == 0;
        provider.tells_limits = !provider.is_window && random() % 3 == 0;
        provider.latency = static_cast<Instant>(between(0.05, 5) * 1e6);
        const int most = static_cast<int>(between(1, 2000));
        Simulation simulation({most}, provider, static_cast<std::uint64_t>(seed));
        simulation.rounds = 1 + static_cast<int>(random() % 4);
        const int missions = static_cast<int>(std::max(20.0, provider.per_second * 30));
        simulation.add(missions);
        const double calls = missions * simulation.rounds;
        const double latency = (provider.latency + ms(50)) / 1e6;
        double bound = std::max(std::max(0.0, calls - provider.burst) / provider.per_second,
                                calls * latency / most) +
                       simulation.rounds * latency;
        if (provider.is_window) {
            bound += provider.burst / provider.per_second;
        }
        SCOPED_TRACE("seed " + std::to_string(seed) + " rate " +
                     std::to_string(provider.per_second) + " burst " +
                     std::to_string(provider.burst) + " latency " + std::to_string(latency) +
                     " at most " + std::to_string(most) + " bound " + std::to_string(bound));
        ASSERT_TRUE(simulation.run(static_cast<Instant>((4 * bound + 60) * 1e6)));
        EXPECT_LE(simulation.most_in_flight, most);
        // A provider that does not say when to come back is found out about by probes.
        EXPECT_LT(took(simulation), (provider.tells_retry_after ? 2.5 : 3.5) * bound + 20);
        EXPECT_LT(simulation.refused, 20 + 0.15 * simulation.calls);
    }
}

TEST(ServiceGate, SetRatesAreKeptInEveryWindow) {
    ServiceGate gate({100, 120, 0});
    std::vector<Instant> starts;
    Instant now = kSecond;
    for (int i = 0; i < 500; ++i) {
        now = std::max(now, *gate.next_permit_at(now));
        ASSERT_TRUE(gate.may_start(now));
        const auto call = gate.start(now);
        gate.end(call, {}, now);
        starts.push_back(now);
    }
    for (std::size_t i = 0; i < starts.size(); ++i) {
        for (std::size_t j = i; j < starts.size(); ++j) {
            ASSERT_LE(static_cast<double>(j - i), 2.0 * (starts[j] - starts[i]) / 1e6 + 1.01);
        }
    }
    EXPECT_NEAR((starts.back() - starts.front()) / 1e6, 250, 2);
}

TEST(ServiceGate, TokensPerMinuteAreKept) {
    ServiceGate gate({100, 0, 60'000});
    Instant now = kSecond;
    double used = 0;
    for (int i = 0; i < 200; ++i) {
        now = std::max(now, *gate.next_permit_at(now));
        ASSERT_TRUE(gate.may_start(now));
        const auto call = gate.start(now);
        CallReport report;
        report.tokens = 3000;
        used += report.tokens;
        gate.end(call, report, now);
    }
    // A thousand a second, and ten seconds' worth at once.
    EXPECT_GT((now - kSecond) / 1e6, used / 1000 - 15);
    EXPECT_LT((now - kSecond) / 1e6, used / 1000 + 5);
}

// Settings are read anew with each reload.
TEST(ServiceGate, OtherLimitsDoNotRefillWhatWasUsed) {
    for (const GateLimits& limits : {GateLimits{100, 60, 0}, GateLimits{100, 0, 60'000}}) {
        ServiceGate gate(limits);
        CallReport report;
        report.tokens = 30'000;
        gate.end(gate.start(kSecond), report, kSecond);
        const auto next = gate.next_permit_at(kSecond);
        ASSERT_TRUE(next);
        ASSERT_GT(*next, kSecond);
        GateLimits other = limits;
        other.max_concurrency = 50;
        gate.set_limits(other);
        EXPECT_EQ(gate.next_permit_at(kSecond), next);
        // Half the rate: it takes twice as long.
        other.requests_per_minute /= 2;
        other.tokens_per_minute /= 2;
        gate.set_limits(other);
        EXPECT_FALSE(gate.may_start(*next));
        EXPECT_GT(*gate.next_permit_at(kSecond), *next);
        // A limit that was not there before begins full.
        gate.set_limits({50, 0, 0});
        EXPECT_TRUE(gate.may_start(kSecond));
        gate.set_limits(limits);
        EXPECT_TRUE(gate.may_start(kSecond));
    }
}

// What was used at a high rate does not keep everybody waiting for hours after it was lowered.
TEST(ServiceGate, ALoweredRateDoesNotStretchADebt) {
    ServiceGate gate({100, 0, 6'000'000});
    CallReport report;
    report.tokens = 3'000'000;
    gate.end(gate.start(kSecond), report, kSecond);
    ASSERT_TRUE(gate.next_permit_at(kSecond));
    gate.set_limits({100, 0, 6000});
    const auto next = gate.next_permit_at(kSecond);
    ASSERT_TRUE(next);
    EXPECT_GE(*next, 61 * kSecond);
    EXPECT_LE(*next, 72 * kSecond);
    // A debt that is made at this rate is worked off whole.
    report.tokens = 30'000;
    gate.end(gate.start(*next), report, *next);
    const auto after = gate.next_permit_at(*next);
    ASSERT_TRUE(after);
    EXPECT_GE(*after - *next, 290 * kSecond);
    gate.set_limits({50, 0, 6000});
    EXPECT_EQ(gate.next_permit_at(*next), after);
}

// A call that needs more than the whole allowance goes out all the same.
TEST(ServiceGate, ACallLargerThanTheAllowanceIsNotKeptForEver) {
    ServiceGate gate({10, 0, 60});
    const auto first = gate.start(kSecond);
    CallReport report;
    report.tokens = 5000;
    gate.end(first, report, kSecond);
    const auto next = gate.next_permit_at(kSecond);
    ASSERT_TRUE(next);
    EXPECT_GT(*next, kSecond);
    EXPECT_TRUE(gate.may_start(*next));
}

TEST(ServiceGate, NothingIsSentBeforeTheTimeThatRetryAfterNames) {
    ServiceGate gate({64});
    Instant now = kSecond;
    const auto refused = gate.start(now);
    CallReport report;
    report.end = CallEnd::Refused;
    report.retry_after = 20 * kSecond;
    gate.end(refused, report, now);
    EXPECT_FALSE(gate.may_start(now + 20 * kSecond - 1));
    EXPECT_EQ(gate.claimable(now + 15 * kSecond, 0), 0);
    ASSERT_TRUE(gate.next_permit_at(now));
    EXPECT_GE(*gate.next_permit_at(now), now + 20 * kSecond);
    EXPECT_EQ(gate.state(now), GateState::Limited);
    EXPECT_EQ(gate.view(now).next_try_at, now + 20 * kSecond);
    // Afterwards they do not all go at once.
    now += 21 * kSecond;
    int sent = 0;
    for (; gate.may_start(now); ++sent) {
        gate.start(now);
    }
    EXPECT_EQ(sent, 1);
}

// One reply's word for hours does not keep everybody from finding out that it is not so.
TEST(ServiceGate, ALongRetryAfterEndsWithACallThatFindsOut) {
    for (const CallEnd end : {CallEnd::Refused, CallEnd::Down}) {
        ServiceGate gate({64});
        CallReport report;
        report.end = end;
        report.retry_after = 3600 * kSecond;
        gate.end(gate.start(kSecond), report, kSecond);
        const Instant longest =
            end == CallEnd::Refused ? kMicrosPerMinute : ServiceGate::kLongestProbePause;
        EXPECT_FALSE(gate.may_start(kSecond + longest - 1));
        EXPECT_TRUE(gate.may_start(kSecond + longest));
    }
}

// Ends `count` calls in this way.
void end_calls(ServiceGate& gate, int count, CallEnd end, Instant now, bool same_caller = false) {
    for (int i = 0; i < count; ++i) {
        CallReport report;
        report.end = end;
        report.caller = same_caller ? 7 : static_cast<std::uint64_t>(i);
        gate.end(gate.start(now), report, now);
    }
}

TEST(ServiceGate, ItClosesAfterFailuresInARowAndSendsProbesInGrowingIntervals) {
    ServiceGate gate({64});
    end_calls(gate, ServiceGate::kFailuresToClose - 1, CallEnd::Down, kSecond);
    EXPECT_EQ(gate.state(kSecond), GateState::Open);
    end_calls(gate, 1, CallEnd::Answered, kSecond);
    end_calls(gate, ServiceGate::kFailuresToClose, CallEnd::Down, kSecond);
    EXPECT_EQ(gate.state(kSecond), GateState::Unavailable);
    EXPECT_EQ(gate.claimable(kSecond, 0), 0);
    Instant now = kSecond;
    Instant last_pause = 0;
    int probes = 0;
    while (now < 600 * kSecond) {
        const Instant next = *gate.next_permit_at(now);
        const Instant pause = next - now;
        EXPECT_GE(pause, std::max(last_pause, ServiceGate::kFirstProbePause));
        EXPECT_LE(pause, ServiceGate::kLongestProbePause);
        last_pause = pause;
        now = next;
        EXPECT_FALSE(gate.may_start(now - 1));
        EXPECT_EQ(gate.claimable(now, 0), 1);
        EXPECT_EQ(gate.claimable(now, 1), 0) << "one is enough";
        const auto probe = gate.start(now);
        EXPECT_FALSE(gate.may_start(now)) << "one at a time";
        EXPECT_GE(*gate.next_permit_at(now), now + ServiceGate::kSlowProbe);
        CallReport report;
        report.end = CallEnd::Down;
        gate.end(probe, report, now);
        probes++;
    }
    EXPECT_EQ(last_pause, ServiceGate::kLongestProbePause);
    EXPECT_LT(probes, 45);
    now = *gate.next_permit_at(now);
    end_calls(gate, 1, CallEnd::Answered, now);
    EXPECT_EQ(gate.state(now), GateState::Open);
    EXPECT_GE(gate.claimable(now, 0), 8);
    EXPECT_LE(gate.claimable(now, 0), ServiceGate::kFirstLimit);
}

TEST(ServiceGate, AProbeThatIsGivenUpMakesRoomForAnother) {
    ServiceGate gate({64});
    end_calls(gate, ServiceGate::kFailuresToClose, CallEnd::Down, kSecond);
    const Instant now = *gate.next_permit_at(kSecond);
    const auto probe = gate.start(now);
    EXPECT_FALSE(gate.may_start(now));
    CallReport report;
    report.end = CallEnd::Dropped;
    gate.end(probe, report, now);
    EXPECT_TRUE(gate.may_start(now));
    EXPECT_EQ(gate.state(now), GateState::Unavailable);
}

// A service that is back must not be waited for because the first to ask got no answer.
TEST(ServiceGate, AProbeThatHangsMakesRoomForAnother) {
    ServiceGate gate({64});
    end_calls(gate, ServiceGate::kFailuresToClose, CallEnd::Down, kSecond);
    Instant now = *gate.next_permit_at(kSecond);
    const auto hanging = gate.start(now);
    EXPECT_TRUE(gate.is_probing());
    EXPECT_FALSE(gate.may_start(now + ServiceGate::kSlowProbe - 1));
    now += ServiceGate::kSlowProbe;
    EXPECT_TRUE(gate.may_start(now));
    end_calls(gate, 1, CallEnd::Answered, now);
    EXPECT_EQ(gate.state(now), GateState::Open);
    CallReport report;
    report.end = CallEnd::Suspect;
    gate.end(hanging, report, now + kSecond);
    EXPECT_EQ(gate.state(now + kSecond), GateState::Open);
    EXPECT_FALSE(gate.is_probing());
}

// What was under way when it closed says nothing of the service as it is now.
TEST(ServiceGate, OnlyAProbeOpensIt) {
    ServiceGate gate({64});
    const auto slow = gate.start(kSecond);
    end_calls(gate, ServiceGate::kFailuresToClose, CallEnd::Down, kSecond);
    gate.end(slow, {}, kSecond);
    EXPECT_EQ(gate.state(kSecond), GateState::Unavailable);
}

// One mission whose call takes too long each time does not close the service to all others.
TEST(ServiceGate, TimeoutsOfOneMissionAloneDoNotCloseIt) {
    ServiceGate gate({64});
    end_calls(gate, 20, CallEnd::Suspect, kSecond, true);
    EXPECT_EQ(gate.state(kSecond), GateState::Open);
    end_calls(gate, 1, CallEnd::Suspect, kSecond);
    EXPECT_EQ(gate.state(kSecond), GateState::Unavailable);
}

TEST(ServiceGate, ARefusedKeyClosesItInItsOwnWords) {
    ServiceGate gate({64});
    end_calls(gate, ServiceGate::kRefusedKeysToClose, CallEnd::KeyRefused, kSecond, true);
    EXPECT_EQ(gate.state(kSecond), GateState::KeyRefused);
    EXPECT_STREQ(name(gate.state(kSecond)), "key_refused");
    // Another key is another service.
    gate.forget();
    EXPECT_EQ(gate.state(kSecond), GateState::Open);
    EXPECT_EQ(gate.claimable(kSecond, 0), ServiceGate::kFirstLimit);
}

TEST(ServiceGate, CallsMadeWithTheOldKeySayNothingOfTheNewOne) {
    ServiceGate gate({64});
    std::vector<ServiceGate::Call> calls;
    for (int i = 0; i < 10; ++i) {
        calls.push_back(gate.start(kSecond));
    }
    gate.forget();
    CallReport report;
    report.end = CallEnd::KeyRefused;
    for (const ServiceGate::Call& call : calls) {
        gate.end(call, report, kSecond);
    }
    EXPECT_EQ(gate.state(kSecond), GateState::Open);
    end_calls(gate, ServiceGate::kRefusedKeysToClose, CallEnd::KeyRefused, kSecond);
    EXPECT_EQ(gate.state(kSecond), GateState::KeyRefused);
}

// A 403 may be for what one request asks.
TEST(ServiceGate, WhatIsForbiddenToSeveralIsARefusedKey) {
    ServiceGate gate({64});
    end_calls(gate, 20, CallEnd::Forbidden, kSecond, true);
    EXPECT_EQ(gate.state(kSecond), GateState::Open);
    end_calls(gate, 1, CallEnd::Forbidden, kSecond);
    EXPECT_EQ(gate.state(kSecond), GateState::KeyRefused);
    const Instant now = *gate.next_permit_at(kSecond);
    end_calls(gate, 1, CallEnd::Down, now);
    EXPECT_EQ(gate.state(now), GateState::Unavailable) << "the newest probe says what it is";
}

// As some services do whose quota is used up: they do not say for how long.
TEST(ServiceGate, RefusalsWithoutATimeCloseIt) {
    ServiceGate gate({64});
    end_calls(gate, ServiceGate::kFailuresToClose, CallEnd::Refused, kSecond);
    EXPECT_EQ(gate.state(kSecond), GateState::Unavailable);
}

// One request that is refused each time does not close the service to all others.
TEST(ServiceGate, RefusalsOfOneMissionAloneDoNotCloseIt) {
    ServiceGate gate({64});
    end_calls(gate, 20, CallEnd::Refused, kSecond, true);
    EXPECT_NE(gate.state(kSecond), GateState::Unavailable);
    end_calls(gate, 1, CallEnd::Refused, kSecond);
    EXPECT_EQ(gate.state(kSecond), GateState::Unavailable);
}

TEST(ServiceGate, ItKnowsWhetherOthersHaveFailedToo) {
    const auto end_call = [](ServiceGate& gate, CallEnd end, std::uint64_t caller, Instant now) {
        CallReport report;
        report.end = end;
        report.caller = caller;
        gate.end(gate.start(now), report, now);
    };
    ServiceGate gate({64});
    EXPECT_FALSE(gate.has_failed_others(1, kSecond));
    end_call(gate, CallEnd::Down, 1, kSecond);
    EXPECT_FALSE(gate.has_failed_others(1, kSecond));
    EXPECT_TRUE(gate.has_failed_others(2, kSecond));
    end_call(gate, CallEnd::Answered, 2, kSecond);
    EXPECT_FALSE(gate.has_failed_others(1, kSecond));
    end_call(gate, CallEnd::Refused, 3, 2 * kSecond);
    end_call(gate, CallEnd::Refused, 1, 3 * kSecond);
    end_call(gate, CallEnd::Refused, 1, 4 * kSecond);
    EXPECT_TRUE(gate.has_failed_others(1, 4 * kSecond));
    EXPECT_FALSE(gate.has_failed_others(1, 120 * kSecond)) << "that is long ago";
    // In an outage all failures since its begin count.
    end_call(gate, CallEnd::Down, 4, 200 * kSecond);
    end_calls(gate, ServiceGate::kFailuresToClose, CallEnd::Down, 200 * kSecond, true);
    EXPECT_TRUE(gate.is_closed());
    EXPECT_TRUE(gate.has_failed_others(7, 900 * kSecond));
}

TEST(ServiceGate, ClaimsOfAPacedServiceAreBatchedWithoutHoldingItUp) {
    ServiceGate gate({500, 60 * 40, 0});
    Instant now = kSecond;
    int claimed = 0;
    int passes = 0;
    int pending = 0;
    Instant claim_at = now;
    while (now < 11 * kSecond) {
        if (now >= claim_at) {
            const int can = gate.claimable(now, pending);
            claimed += can;
            pending += can;
            passes++;
        }
        for (; pending > 0 && gate.may_start(now); --pending) {
            gate.end(gate.start(now), {}, now);
        }
        claim_at = *gate.next_claim_at(now, pending);
        Instant next = claim_at;
        if (pending > 0) {
            next = std::min(next, *gate.next_permit_at(now));
        }
        now = std::max(next, now + 1);
    }
    EXPECT_NEAR(claimed, 400, 20) << "forty a second";
    EXPECT_LT(passes, 100);
}

}  // namespace
}  // namespace mana_ai::core
