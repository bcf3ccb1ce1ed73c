#include "mana_ai/net/failure_limit.hpp"

#include <gtest/gtest.h>

#include <string>

namespace mana_ai::net {
namespace {

constexpr int64_t kNow = 5'000'000'000;

void fail(FailureLimit& limit, const std::string& client, int64_t times) {
    for (int64_t i = 0; i < times; i++) {
        limit.failed(client, kNow);
    }
}

TEST(FailureLimit, LetsAClientFailSoOften) {
    FailureLimit limit;
    fail(limit, "a", FailureLimit::kBurst - 1);
    EXPECT_TRUE(limit.may_try("a", kNow));
    limit.failed("a", kNow);
    EXPECT_FALSE(limit.may_try("a", kNow));
}

TEST(FailureLimit, LetsItTryOnceMoreForEachPause) {
    FailureLimit limit;
    fail(limit, "a", FailureLimit::kBurst);
    EXPECT_FALSE(limit.may_try("a", kNow + FailureLimit::kPauseUs - 1));
    EXPECT_TRUE(limit.may_try("a", kNow + FailureLimit::kPauseUs));
    limit.failed("a", kNow + FailureLimit::kPauseUs);
    EXPECT_FALSE(limit.may_try("a", kNow + FailureLimit::kPauseUs));
}

TEST(FailureLimit, KnowsClientsApart) {
    FailureLimit limit;
    fail(limit, "a", FailureLimit::kBurst);
    EXPECT_TRUE(limit.may_try("b", kNow));
}

TEST(FailureLimit, ForgetsWhoHasWaited) {
    FailureLimit limit;
    fail(limit, "a", FailureLimit::kBurst);
    limit.failed("b", kNow + FailureLimit::kBurst * FailureLimit::kPauseUs);
    EXPECT_EQ(limit.clients(), 1U);
}

TEST(FailureLimit, RemembersOnlySoManyAndTheWorstLongest) {
    FailureLimit limit;
    fail(limit, "the worst", FailureLimit::kBurst);
    for (std::size_t i = 0; i < 2 * FailureLimit::kMostClients; i++) {
        limit.failed("client " + std::to_string(i), kNow);
    }
    EXPECT_EQ(limit.clients(), FailureLimit::kMostClients);
    EXPECT_FALSE(limit.may_try("the worst", kNow));
}

}  // namespace
}  // namespace mana_ai::net
