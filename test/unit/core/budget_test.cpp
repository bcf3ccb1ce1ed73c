#include "mana_ai/core/planner/budget.hpp"

#include <gtest/gtest.h>

#include <limits>
#include <vector>

#include "mana_ai/core/record/records.hpp"

namespace mana_ai::core {
namespace {

constexpr std::int64_t kLargest = std::numeric_limits<std::int64_t>::max();

TEST(Budget, CallsUnderWayFitTogether) {
    EXPECT_EQ(judge({BudgetScope::Agent, 1000, 500, 300, 200}), BudgetVerdict::Fits);
    EXPECT_EQ(judge({BudgetScope::Agent, 1000, 500, 300, 201}), BudgetVerdict::Busy);
    EXPECT_EQ(judge({BudgetScope::Agent, 1000, 1000, 0, 1}), BudgetVerdict::UsedUp);
    EXPECT_EQ(judge({BudgetScope::Agent, 0, 0, 0, 1}), BudgetVerdict::UsedUp);
}

TEST(Budget, ACallThatIsAloneGoesOutWhileAnythingIsLeft) {
    EXPECT_EQ(judge({BudgetScope::Agent, 1000, 999, 0, 20'000}), BudgetVerdict::Fits);
    EXPECT_EQ(judge({BudgetScope::Agent, 1000, 999, 1, 20'000}), BudgetVerdict::Busy);
}

TEST(Budget, NothingOverflowsAndNegativeAmountsCountAsNone) {
    EXPECT_EQ(judge({BudgetScope::User, kLargest, kLargest - 1, kLargest, kLargest}),
              BudgetVerdict::Busy);
    EXPECT_EQ(judge({BudgetScope::User, kLargest, 0, -5, kLargest}), BudgetVerdict::Fits);
    EXPECT_EQ(judge({BudgetScope::User, -1, -10, 0, 1}), BudgetVerdict::UsedUp);
    EXPECT_EQ(estimated_tokens(std::numeric_limits<std::size_t>::max(), {1, kLargest}, kLargest),
              kLargest);
}

TEST(Budget, OfSeveralTheOneThatIsUsedUpDecides) {
    const std::vector<BudgetLimit> limits = {{BudgetScope::Agent, 100, 50, 50, 10},
                                             {BudgetScope::User, 100, 0, 0, 10},
                                             {BudgetScope::Total, 100, 100, 0, 10}};
    EXPECT_EQ(judge(limits).scope, BudgetScope::Total);
    EXPECT_EQ(judge(limits).verdict, BudgetVerdict::UsedUp);
    EXPECT_EQ(judge(std::span(limits).first(2)).scope, BudgetScope::Agent);
    EXPECT_EQ(judge(std::span(limits).first(2)).verdict, BudgetVerdict::Busy);
    EXPECT_EQ(judge(std::vector<BudgetLimit>{}).verdict, BudgetVerdict::Fits);
}

TEST(Budget, AnEstimateGoesByTheLastPromptElseByLength) {
    EXPECT_EQ(estimated_tokens(3000, {}, 500), 1500);
    EXPECT_EQ(estimated_tokens(3001, {}, 500), 1501);
    EXPECT_EQ(estimated_tokens(2000, {1000, 250}, 500), 1000);
    EXPECT_EQ(estimated_tokens(2001, {1000, 250}, 500), 1001);
    EXPECT_EQ(estimated_tokens(3000, {1000, 0}, 500), 1500);
    EXPECT_EQ(estimated_tokens(3000, {}, 0), 1000 + kUnlimitedReply);
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
