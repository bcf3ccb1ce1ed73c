#include "mana_ai/core/planner/budget.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <random>
#include <utility>
#include <vector>

#include "mana_ai/core/record/records.hpp"

namespace mana_ai::core {
namespace {

constexpr std::int64_t kLargest = std::numeric_limits<std::int64_t>::max();

// A call with a prompt of so many tokens, and a reply that may be made shorter down to the least.
BudgetLimit agent(std::int64_t cap, std::int64_t used, std::int64_t reserved, CallNeed wanted) {
    return {BudgetScope::Agent, cap, used, reserved, wanted};
}

TEST(Budget, CallsUnderWayFitTogether) {
    EXPECT_EQ(judge(agent(1000, 500, 300, {50, 150, 10})), BudgetVerdict::Fits);
    EXPECT_EQ(judge(agent(1000, 500, 300, {51, 150, 10})), BudgetVerdict::Busy);
    EXPECT_EQ(judge(agent(1000, 1000, 0, {0, 1, 0})), BudgetVerdict::UsedUp);
    EXPECT_EQ(judge(agent(0, 0, 0, {0, 1, 0})), BudgetVerdict::UsedUp);
}

TEST(Budget, ACallThatIsAloneGetsTheReplyThatThereIsRoomFor) {
    const std::vector<BudgetLimit> limits = {agent(1000, 400, 0, {200, 20'000, 100})};
    const BudgetJudgement judged = judge(limits);
    EXPECT_EQ(judged.verdict, BudgetVerdict::Fits);
    EXPECT_EQ(max_tokens_of(limits[0].wanted, judged.reply_share, 20'000), 400);
    EXPECT_EQ(judge(agent(1000, 400, 1, {200, 20'000, 100})), BudgetVerdict::Busy);
}

TEST(Budget, ACallWhosePromptLeavesNoRoomForAReplyIsNotMade) {
    EXPECT_EQ(judge(agent(1000, 400, 0, {500, 20'000, 100})), BudgetVerdict::Fits);
    EXPECT_EQ(judge(agent(1000, 400, 0, {501, 20'000, 100})), BudgetVerdict::Short);
    EXPECT_EQ(judge(agent(1000, 400, 300, {501, 20'000, 100})), BudgetVerdict::Short)
        << "nor will it be when the others have ended";
}

TEST(Budget, TheShortestReplyOfSeveralBudgetsHolds) {
    const CallNeed need{100, 1000, 10};
    const std::vector<BudgetLimit> limits = {agent(10'000, 0, 0, need), agent(600, 0, 0, need),
                                             agent(900, 0, 0, need)};
    EXPECT_EQ(max_tokens_of(need, judge(limits).reply_share, 1000), 500);
    const std::vector<BudgetLimit> of_two = {agent(900, 0, 0, need),
                                             {BudgetScope::User, 600, 0, 0, need}};
    EXPECT_EQ(judge(of_two).scope, BudgetScope::User) << "whose it is";
    EXPECT_EQ(max_tokens_of(need, 1, 1000), 1000);
    EXPECT_EQ(max_tokens_of(need, 0.5, 0), 0) << "a request that does not say stays one";
}

// For any budgets and calls: what goes out together never exceeds what there is.
TEST(Budget, WhatGoesOutTogetherNeverExceedsTheBudget) {
    std::mt19937_64 random(3);
    const auto upto = [&](std::int64_t most) {
        return static_cast<std::int64_t>(random() % static_cast<std::uint64_t>(most + 1));
    };
    for (int round = 0; round < 2000; ++round) {
        const std::int64_t cap = upto(5000);
        const std::int64_t longest = 1 + upto(2000);
        std::int64_t used = 0;
        std::vector<std::pair<std::int64_t, std::int64_t>> under_way;  // reserved, will be used
        for (int step = 0; step < 50; ++step) {
            if (!under_way.empty() && random() % 2 == 0) {
                used += under_way.back().second;
                under_way.pop_back();
                continue;
            }
            std::int64_t reserved = 0;
            for (const auto& call : under_way) {
                reserved += call.first;
            }
            const CallNeed need{upto(800), longest, std::min<std::int64_t>(longest, 100)};
            const std::vector<BudgetLimit> limits = {agent(cap, used, reserved, need)};
            const BudgetJudgement judged = judge(limits);
            if (judged.verdict != BudgetVerdict::Fits) {
                continue;
            }
            const std::int64_t reply = max_tokens_of(need, judged.reply_share, longest);
            ASSERT_GE(reply, need.least_reply);
            under_way.emplace_back(need.prompt + reply, need.prompt + upto(reply));
            ASSERT_LE(used + reserved + need.prompt + reply, cap);
        }
    }
}

TEST(Budget, NothingOverflowsAndNegativeAmountsCountAsNone) {
    const CallNeed all{kLargest, kLargest, kLargest};
    EXPECT_EQ(judge(agent(kLargest, kLargest - 1, kLargest, {0, kLargest, 1})),
              BudgetVerdict::Busy);
    EXPECT_EQ(judge(agent(kLargest, 0, 0, all)), BudgetVerdict::Fits);
    EXPECT_EQ(judge(agent(kLargest, 0, -5, {0, kLargest, 1})), BudgetVerdict::Fits);
    EXPECT_EQ(judge(agent(-1, -10, 0, {0, 1, 0})), BudgetVerdict::UsedUp);
    EXPECT_EQ(all.total(), kLargest);
    EXPECT_EQ(
        estimated_tokens(std::numeric_limits<std::size_t>::max(), {1, kLargest}, kLargest).total(),
        kLargest);
}

TEST(Budget, OfSeveralTheOneThatIsUsedUpDecides) {
    const CallNeed ten{0, 10, 1};
    const std::vector<BudgetLimit> limits = {{BudgetScope::Agent, 100, 50, 50, ten},
                                             {BudgetScope::User, 100, 0, 0, ten},
                                             {BudgetScope::Total, 100, 100, 0, ten}};
    EXPECT_EQ(judge(limits).scope, BudgetScope::Total);
    EXPECT_EQ(judge(limits).verdict, BudgetVerdict::UsedUp);
    EXPECT_EQ(judge(std::span(limits).first(2)).scope, BudgetScope::Agent);
    EXPECT_EQ(judge(std::span(limits).first(2)).verdict, BudgetVerdict::Busy);
    EXPECT_EQ(judge(std::vector<BudgetLimit>{}).verdict, BudgetVerdict::Fits);
}

TEST(Budget, AnEstimateGoesByTheLastPromptElseByLength) {
    EXPECT_EQ(estimated_tokens(3000, {}, 500).total(), 1500);
    EXPECT_EQ(estimated_tokens(3001, {}, 500).prompt, 1001);
    EXPECT_EQ(estimated_tokens(2000, {1000, 250}, 500).prompt, 500);
    EXPECT_EQ(estimated_tokens(2001, {1000, 250}, 500).prompt, 501);
    EXPECT_EQ(estimated_tokens(3000, {1000, 0}, 500).prompt, 1000);
    EXPECT_EQ(estimated_tokens(3000, {}, 0).reply, kUnlimitedReply);
    EXPECT_EQ(estimated_tokens(3000, {}, 0).least_reply, 0);
    EXPECT_EQ(estimated_tokens(3000, {}, 500).least_reply, kShortestReply);
    EXPECT_EQ(estimated_tokens(3000, {}, 50).least_reply, 50);
}

TEST(Budget, OfAMissionIsReadAsThatOfAnAgent) {
    const auto cap = [](const char* value) {
        return parse_mission(
                   parse_json(std::string(R"({"maxTokensPerDay":)") + value + "}").value())
            .max_tokens_per_day;
    };
    EXPECT_EQ(cap("1000"), 1000);
    EXPECT_EQ(cap("-5"), 0);
    EXPECT_EQ(cap("1e300"), kLargest);
    EXPECT_EQ(cap("\"1000\""), std::nullopt);
    EXPECT_EQ(cap("null"), std::nullopt);
    EXPECT_EQ(cap("{}"), std::nullopt);
}

}  // namespace
}  // namespace mana_ai::core
