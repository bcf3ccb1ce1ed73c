#include "mana_ai/core/time/wake.hpp"

#include <gtest/gtest.h>

#include <array>

namespace mana_ai::core {
namespace {

constexpr Instant kMinute = kMicrosPerMinute;
constexpr WakeRule kDefault{5 * kMinute, 60 * kMinute};

WakeRule rule_of(const char* cadence) {
    return wake_rule(Json::parse(cadence), kDefault);
}

TEST(Wake, ReadsMinutes) {
    const WakeRule rule =
        rule_of(R"({"kind":"onChange","debounceMinutes":2,"minIntervalMinutes":90})");
    EXPECT_EQ(rule.debounce, 2 * kMinute);
    EXPECT_EQ(rule.min_interval, 90 * kMinute);
    EXPECT_EQ(rule_of(R"({"kind":"onChange","debounceMinutes":0.05})").debounce,
              3 * kMicrosPerSecond);
}

TEST(Wake, WhatIsNotANumberIsTheDefault) {
    for (const char* cadence :
         {R"({"kind":"onChange"})", R"({"kind":"onChange","debounceMinutes":"2"})",
          R"({"kind":"onChange","debounceMinutes":null,"minIntervalMinutes":[]})",
          R"({"kind":"daily","debounceMinutes":1,"minIntervalMinutes":1})", "null", "[1]"}) {
        EXPECT_EQ(rule_of(cadence).debounce, kDefault.debounce) << cadence;
        EXPECT_EQ(rule_of(cadence).min_interval, kDefault.min_interval) << cadence;
    }
}

TEST(Wake, NumbersOutOfBoundsAreBroughtWithin) {
    const WakeRule low =
        rule_of(R"({"kind":"onChange","debounceMinutes":-3,"minIntervalMinutes":0})");
    EXPECT_EQ(low.debounce, 0);
    EXPECT_EQ(low.min_interval, kMinute);
    const WakeRule high =
        rule_of(R"({"kind":"onChange","debounceMinutes":1e300,"minIntervalMinutes":1e9})");
    EXPECT_EQ(high.debounce, kLongestDebounce);
    EXPECT_EQ(high.min_interval, kLongestWakeInterval);
}

TEST(Wake, NamesInputs) {
    const auto inputs = [](const char* cadence) { return wake_inputs(Json::parse(cadence)); };
    EXPECT_EQ(inputs(R"({"kind":"onChange","inputs":["a",{"id":"b","table":"t"},7,{},""]})"),
              (std::vector<std::string>{"a", "b"}));
    EXPECT_TRUE(inputs(R"({"kind":"onChange","inputs":"a"})").empty());
    EXPECT_TRUE(inputs(R"({"kind":"daily","inputs":["a"]})").empty());
}

TEST(Wake, AChangeBeginsTheDebounceAgain) {
    EXPECT_EQ(wake_at(kDefault, {100, 100, {}}), 100 + 5 * kMinute);
    EXPECT_EQ(wake_at(kDefault, {100, 100 + kMinute, {}}), 100 + 6 * kMinute);
    EXPECT_EQ(wake_at({0, kMinute}, {100, 100, {}}), 100);
}

TEST(Wake, AStormCannotPostponeItForEver) {
    const Instant latest = 4 * 5 * kMinute;
    Instant at = 0;
    for (Instant now = 0; now < 60 * kMinute; now += kMinute) {
        at = wake_at(kDefault, {0, now, {}});
        EXPECT_LE(at, latest);
    }
    EXPECT_EQ(at, latest);
}

TEST(Wake, PlansKeepTheirDistance) {
    EXPECT_EQ(wake_at(kDefault, {10 * kMinute, 10 * kMinute, 0}), 60 * kMinute);
    EXPECT_EQ(wake_at(kDefault, {70 * kMinute, 70 * kMinute, 0}), 75 * kMinute);
}

TEST(Wake, AUserIsWokenOnlySoOftenInAnHour) {
    const std::array<Instant, 3> woken = {1 * kMinute, 2 * kMinute, 50 * kMinute};
    EXPECT_EQ(after_limit(woken, 3, 55 * kMinute), 61 * kMinute);
    EXPECT_EQ(after_limit(woken, 4, 55 * kMinute), 55 * kMinute);
    EXPECT_EQ(after_limit(woken, 3, 61 * kMinute), 61 * kMinute);
    EXPECT_EQ(after_limit(woken, 2, 61 * kMinute), 62 * kMinute);
    EXPECT_EQ(after_limit(woken, 1, 61 * kMinute), 110 * kMinute);
    EXPECT_EQ(after_limit(woken, 0, 55 * kMinute), 55 * kMinute);
    EXPECT_EQ(after_limit({}, 1, 55 * kMinute), 55 * kMinute);
}

}  // namespace
}  // namespace mana_ai::core
