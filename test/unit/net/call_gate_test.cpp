#include "mana_ai/net/call_gate.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <iterator>
#include <map>
#include <optional>
#include <random>
#include <string>
#include <vector>

namespace mana_ai::net {
namespace {

using core::CallEnd;
using core::CallReport;
using core::GateLimits;
using Order = CallGate::Order;
using Patience = CallGate::Patience;

constexpr int64_t kSecond = 1'000'000;

struct Door {
    explicit Door(const GateLimits& limits) : gate(loop, limits) {}
    ~Door() { loop.cancel_all(); }

    int64_t now = kSecond;
    EventLoop loop{[this] { return now; }};
    CallGate gate;
    std::vector<std::string> log;
    std::vector<int64_t> starts;  // when calls went out
    int in_flight = 0;

    void settle() {
        while (loop.run_ready() > 0) {
        }
    }
    void pass(int64_t us) {
        now += us;
        settle();
    }
};

// A call that takes `us` and ends as it is told.
Task<void> call(Door& door, std::string name, Order order, Patience patience, int64_t us,
                CallReport report) {
    CallGate::Turn turn(door.gate, std::hash<std::string>()(name), order, patience);
    const bool may = co_await turn;
    door.log.push_back((may ? "+" : "-") + name);
    if (!may) {
        co_return;
    }
    door.starts.push_back(door.now);
    door.in_flight++;
    co_await door.loop.sleep_for(us);
    door.in_flight--;
    turn.end(report);
}

EventLoop::TaskId start(Door& door, const std::string& name, Order order = Order::New,
                        Patience patience = {60 * kSecond, 0}, int64_t us = kSecond,
                        const CallReport& report = {}) {
    return door.loop.spawn(call(door, name, order, patience, us, report), {});
}

CallReport ended(CallEnd end) {
    CallReport report;
    report.end = end;
    return report;
}

using Log = std::vector<std::string>;

TEST(CallGate, WhoHasBegunGoesFirstAndTheRestInOrder) {
    Door door({1});
    start(door, "first");
    door.settle();
    start(door, "new1");
    start(door, "begun1", Order::Begun);
    start(door, "new2");
    start(door, "begun2", Order::Begun);
    for (int i = 0; i < 6; ++i) {
        door.pass(kSecond);
        EXPECT_LE(door.in_flight, 1);
    }
    EXPECT_EQ(door.log, (Log{"+first", "+begun1", "+begun2", "+new1", "+new2"}));
    EXPECT_TRUE(door.gate.is_idle());
}

TEST(CallGate, WhoComesLaterDoesNotOvertake) {
    Door door({1});
    start(door, "a", Order::New);
    door.settle();
    start(door, "b", Order::New);
    door.settle();
    door.now += kSecond;  // "a" ends, "b" is let in; "c" asks in the same moment
    start(door, "c", Order::New);
    door.settle();
    door.pass(kSecond);
    door.pass(kSecond);
    EXPECT_EQ(door.log, (Log{"+a", "+b", "+c"}));
}

TEST(CallGate, ACanceledCallLeavesTheQueueAndGivesItsPlaceBack) {
    Door door({1});
    const auto under_way = start(door, "under way");
    door.settle();
    const auto waits = start(door, "waits");
    start(door, "next");
    door.settle();
    EXPECT_EQ(door.gate.waiting(), 2u);
    EXPECT_TRUE(door.loop.cancel(waits));
    EXPECT_EQ(door.gate.waiting(), 1u);
    EXPECT_TRUE(door.loop.cancel(under_way));
    door.settle();
    EXPECT_EQ(door.log, (Log{"+under way", "+next"}));
    door.pass(kSecond);
    EXPECT_TRUE(door.gate.is_idle());
    EXPECT_EQ(door.gate.claimable(0), 1);
}

// Cancelled between being let in and going on.
TEST(CallGate, ATurnThatCameTooLateIsNotLost) {
    Door door({1});
    start(door, "a");
    door.settle();
    const auto late = start(door, "late");
    door.settle();
    start(door, "next");
    door.settle();
    {
        CallGate::Turn turn(door.gate, 0, Order::Begun, {0, 0});
        EXPECT_FALSE(turn.await_ready());
    }
    door.now += kSecond;
    // One pass ends "a" and lets "late" in; it is cancelled before it goes on.
    while (door.gate.waiting() == 2) {
        ASSERT_GT(door.loop.run_ready(), 0u);
    }
    door.loop.cancel(late);
    door.settle();
    door.pass(kSecond);
    EXPECT_EQ(door.log.back(), "+next");
    EXPECT_TRUE(door.gate.is_idle());
}

TEST(CallGate, PatienceEnds) {
    Door door({1});
    start(door, "long", Order::New, {kSecond, 0}, 100 * kSecond);
    door.settle();
    start(door, "impatient", Order::New, {5 * kSecond, 0});
    door.settle();
    door.pass(4 * kSecond);
    EXPECT_EQ(door.log, (Log{"+long"}));
    door.pass(kSecond);
    EXPECT_EQ(door.log, (Log{"+long", "-impatient"}));
    EXPECT_EQ(door.gate.waiting(), 0u);
}

TEST(CallGate, WhatTakesTooLongForSureIsNotWaitedFor) {
    Door door({8});
    CallReport refused = ended(CallEnd::Refused);
    refused.retry_after = 60 * kSecond;
    start(door, "refused", Order::New, {kSecond, 0}, 1, refused);
    start(door, "slow", Order::New, {kSecond, 0}, 1);
    door.settle();
    door.pass(10);
    start(door, "short", Order::New, {5 * kSecond, 0});
    start(door, "patient", Order::Begun, {90 * kSecond, 0});
    door.settle();
    EXPECT_EQ(door.log, (Log{"+refused", "+slow", "-short"}));
    EXPECT_EQ(door.gate.claimable(0), 0);
    door.pass(61 * kSecond);
    EXPECT_EQ(door.log.back(), "+patient");
    EXPECT_EQ(door.gate.refused(), 1u);
}

TEST(CallGate, WhileItIsClosedOnlyWhoHasPaidWaitsAndMakesTheProbes) {
    Door door({64});
    for (int i = 0; i < core::ServiceGate::kFailuresToClose; ++i) {
        start(door, "down" + std::to_string(i), Order::New, {kSecond, 0}, 1, ended(CallEnd::Down));
    }
    door.settle();
    door.pass(2);
    EXPECT_TRUE(door.gate.is_closed());
    door.log.clear();
    start(door, "new");
    start(door, "begun1", Order::Begun, {120 * kSecond, 120 * kSecond}, 1, ended(CallEnd::Down));
    start(door, "begun2", Order::Begun, {120 * kSecond, 120 * kSecond}, 1);
    start(door, "begun3", Order::Begun, {120 * kSecond, 120 * kSecond}, 1);
    door.settle();
    EXPECT_EQ(door.log, (Log{"-new"}));
    EXPECT_EQ(door.gate.claimable(0), 0);
    for (int i = 0; i < 50; ++i) {
        door.pass(kSecond / 10);
    }
    EXPECT_EQ(door.log, (Log{"-new", "+begun1", "+begun2", "+begun3"}));
    EXPECT_FALSE(door.gate.is_closed());
    EXPECT_TRUE(door.gate.is_idle());
}

TEST(CallGate, AShortPatienceWaitsForAProbeThatIsNear) {
    Door door({64});
    for (int i = 0; i < core::ServiceGate::kFailuresToClose; ++i) {
        start(door, "down" + std::to_string(i), Order::New, {kSecond, 0}, 1, ended(CallEnd::Down));
    }
    door.settle();
    door.pass(2);
    EXPECT_TRUE(door.gate.is_closed());
    door.log.clear();
    const Patience in_outage{15 * kSecond, 3 * kSecond};
    start(door, "probe", Order::New, in_outage, kSecond, ended(CallEnd::Down));
    start(door, "waits", Order::New, in_outage, 1);
    door.settle();
    EXPECT_EQ(door.log, Log{});
    // The probe takes a second and fails; the next one goes out a second later.
    for (int i = 0; i < 31; ++i) {
        door.pass(kSecond / 10);
    }
    EXPECT_EQ(door.log, (Log{"+probe", "-waits"}));
    EXPECT_TRUE(door.gate.is_closed());
    door.log.clear();
    // Long outages have long pauses: then nobody waits in vain.
    for (int i = 0; i < 20; ++i) {
        start(door, "p" + std::to_string(i), Order::New, in_outage, 1, ended(CallEnd::Down));
        door.settle();
        door.pass(3 * kSecond);
    }
    door.log.clear();
    start(door, "late", Order::New, in_outage, 1);
    door.settle();
    EXPECT_EQ(door.log, (Log{"-late"}));
}

// Whoever was turned away looks at the gate once more when it goes on.
TEST(CallGate, ItIsInUseUntilEverybodyHasGoneOn) {
    Door door({1});
    start(door, "long", Order::New, {kSecond, 0}, 100 * kSecond);
    door.settle();
    const auto first = start(door, "impatient", Order::New, {kSecond, 0});
    door.settle();
    door.loop.cancel(first);
    std::optional<CallGate::Turn> turn;
    turn.emplace(door.gate, 1, Order::New, Patience{0, 0});
    door.pass(100 * kSecond);
    EXPECT_FALSE(door.gate.is_idle()) << "nobody waits or calls, but a turn refers to it";
    turn.reset();
    EXPECT_TRUE(door.gate.is_idle());
}

// Whatever happens: never more at once than allowed, everybody is served or told, in order.
TEST(CallGate, RandomCallersAreServedInTheirTurn) {
    for (uint64_t seed = 0; seed < 30; ++seed) {
        std::mt19937_64 random(seed);
        const int most = 1 + static_cast<int>(random() % 20);
        Door door({most});
        std::map<std::string, EventLoop::TaskId> tasks;
        int names = 0;
        for (int step = 0; step < 2000; ++step) {
            const int what = static_cast<int>(random() % 10);
            if (what < 5) {
                const bool begun = random() % 3 == 0;
                const std::string name = (begun ? "b" : "n") + std::to_string(names++);
                tasks[name] =
                    start(door, name, begun ? Order::Begun : Order::New, {1000 * kSecond, true},
                          static_cast<int64_t>(random() % (2 * kSecond)));
            } else if (what == 5 && !tasks.empty()) {
                auto victim = tasks.begin();
                std::advance(victim, static_cast<std::ptrdiff_t>(random() % tasks.size()));
                const bool under_way = std::find(door.log.begin(), door.log.end(),
                                                 "+" + victim->first) != door.log.end();
                if (!under_way) {
                    door.loop.cancel(victim->second);
                    tasks.erase(victim);
                }
            }
            door.pass(static_cast<int64_t>(random() % (kSecond / 4)));
            ASSERT_LE(door.in_flight, most);
        }
        for (int i = 0; i < 5000 && !door.gate.is_idle(); ++i) {
            door.pass(kSecond);
        }
        ASSERT_TRUE(door.gate.is_idle());
        int last_begun = -1;
        int last_new = -1;
        for (const std::string& line : door.log) {
            ASSERT_EQ(line[0], '+') << line;
            int& last = line[1] == 'b' ? last_begun : last_new;
            const int number = std::stoi(line.substr(2));
            ASSERT_GT(number, last) << "seed " << seed;
            last = number;
        }
    }
}

// A bucket of the test's own: what a rate that is set lets through.
struct Allowance {
    double per_second;
    double burst;
    double level = burst;
    int64_t at = kSecond;

    Allowance(double rate, double most) : per_second(rate), burst(most) {}
    void take(int64_t now, size_t calls) {
        level = std::min(burst, level + per_second * static_cast<double>(now - at) / 1e6) -
                static_cast<double>(calls);
        at = now;
    }
};

// Never above a rate that is set by more than one burst, in any time; and never idle while there
// is somebody who waits, a place and a permit.
TEST(CallGate, RandomRatesAreKeptAndNothingStandsIdle) {
    for (uint64_t seed = 0; seed < 40; ++seed) {
        SCOPED_TRACE(seed);
        std::mt19937_64 random(seed);
        const double per_minute = 30 * std::pow(200.0, static_cast<double>(random() % 1000) / 999);
        const int most = 1 + static_cast<int>(random() % 60);
        Door door({most, per_minute, 0});
        Allowance allowance(per_minute / 60, std::max(1.0, per_minute / 60 * 0.05));
        size_t seen = 0;
        int waited = 0;
        for (int step = 0; step < 3000; ++step) {
            for (uint64_t i = random() % 4; i > 0 && door.gate.waiting() < 50; --i) {
                start(door, std::to_string(step), random() % 3 == 0 ? Order::Begun : Order::New,
                      {100'000 * kSecond, 0}, static_cast<int64_t>(random() % (2 * kSecond)));
            }
            door.pass(static_cast<int64_t>(random() % (kSecond / 8)));
            allowance.take(door.now, door.starts.size() - seen);
            seen = door.starts.size();
            ASSERT_GE(allowance.level, -1e-3) << "more than the rate allows";
            ASSERT_LE(door.in_flight, most);
            if (door.gate.waiting() > 0) {
                ++waited;
                const bool is_full = door.in_flight >= door.gate.view().limit;
                ASSERT_TRUE(is_full || allowance.level < 1 + 1e-3)
                    << door.gate.waiting() << " wait for nothing beside " << door.in_flight;
            }
        }
        EXPECT_GT(waited, 20) << "the case that is meant must come up";
    }
}

// Nobody waits for longer than those before them take: as many calls as have come before, and those
// of runs that have begun.
TEST(CallGate, NobodyIsOvertakenByOneOfTheirKind) {
    for (uint64_t seed = 0; seed < 20; ++seed) {
        SCOPED_TRACE(seed);
        std::mt19937_64 random(seed);
        Door door(
            {1 + static_cast<int>(random() % 8), 60.0 + static_cast<double>(random() % 1200), 0});
        int64_t paused_until = 0;
        size_t seen = 0;
        int names = 0;
        for (int step = 0; step < 1500; ++step) {
            if (random() % 2 == 0 && door.gate.waiting() < 40) {
                const bool begun = random() % 3 == 0;
                CallReport report;
                int64_t takes = static_cast<int64_t>(random() % kSecond);
                if (random() % 40 == 0) {
                    report = ended(CallEnd::Refused);
                    report.retry_after = kSecond;
                    takes = 1;
                }
                start(door, (begun ? "b" : "n") + std::to_string(names++),
                      begun ? Order::Begun : Order::New, {100'000 * kSecond, 0}, takes, report);
            }
            const uint64_t refused = door.gate.refused();
            door.pass(static_cast<int64_t>(random() % (kSecond / 10)));
            for (; seen < door.starts.size(); ++seen) {
                ASSERT_GE(door.starts[seen], paused_until) << "the service has asked to wait";
            }
            if (door.gate.refused() > refused) {
                paused_until = door.now + kSecond;
            }
        }
        for (int i = 0; i < 20'000 && !door.gate.is_idle(); ++i) {
            door.pass(kSecond / 4);
        }
        ASSERT_TRUE(door.gate.is_idle());
        ASSERT_EQ(door.log.size(), static_cast<size_t>(names)) << "everybody is served";
        int last_begun = -1;
        int last_new = -1;
        for (const std::string& line : door.log) {
            int& last = line[1] == 'b' ? last_begun : last_new;
            const int number = std::stoi(line.substr(2));
            ASSERT_GT(number, last);
            last = number;
        }
    }
}

}  // namespace
}  // namespace mana_ai::net
