#include "mana_ai/core/planner/plan_difference.hpp"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace mana_ai::core {
namespace {

Json json(const char* text) {
    return parse_json(text).value();
}

ComparedStep step(const char* tool, const char* params, bool was_approved = false) {
    return {tool, json(params), was_approved};
}

std::string tools_of(const std::vector<ComparedStep>& steps) {
    std::string tools;
    for (const ComparedStep& each : steps) {
        tools += (tools.empty() ? "" : " ") + each.tool;
    }
    return tools;
}

TEST(PlanDifference, ReadsStepsOfIterations) {
    const auto steps = steps_of_iteration(json(R"({"plan": [
        {"intent": {"kind": "toolCall", "toolName": "create_task", "params": {"title": "a"}}, "status": "approved"},
        {"intent": {"toolName": "add_note"}, "status": "failed"},
        {"intent": {"kind": "toolCall"}}, {"intent": 7}, 7, null, {}]})"));
    ASSERT_EQ(steps.size(), 2U);
    EXPECT_EQ(steps[0].tool, "create_task");
    EXPECT_EQ(steps[0].params, json(R"({"title": "a"})"));
    EXPECT_TRUE(steps[0].was_approved);
    EXPECT_EQ(steps[1].params, Json::object());
    EXPECT_FALSE(steps[1].was_approved);
    EXPECT_TRUE(steps[1].was_decided);
    EXPECT_TRUE(steps_of_iteration(json(R"({"plan": 7})")).empty());
    EXPECT_TRUE(steps_of_iteration(json("{}")).empty());
}

TEST(PlanDifference, IgnoresWhatDoesNotMatterInParameters) {
    EXPECT_EQ(
        canonical_params(json(
            R"({"b": "  zwei\n  Worte ", "a": null, "c": "", "d": [" x "], "e": {"f": null}})")),
        json(R"({"b": "zwei Worte", "d": ["x"], "e": {}})"));
    EXPECT_EQ(canonical_params(json(R"({"n": 1.0})")), canonical_params(json(R"({"n": 1})")));
    EXPECT_NE(canonical_params(json(R"({"n": 1})")), canonical_params(json(R"({"n": "1"})")));
    EXPECT_NE(canonical_params(json(R"({"n": false})")), canonical_params(json("{}")));
    EXPECT_NE(canonical_params(json(R"({"l": [1, 2]})")),
              canonical_params(json(R"({"l": [2, 1]})")));
    EXPECT_NE(canonical_params(json(R"({"t": "Milch"})")),
              canonical_params(json(R"({"t": "milch"})")));
}

TEST(PlanDifference, EachStepHasOneCounterpart) {
    const auto difference = compare_plans({step("task", R"({"t": "a"})", true),
                                           step("task", R"({"t": "a"})"), step("note", "{}", true)},
                                          {step("task", R"({"t": " a"})"), step("drink", "{}")});
    EXPECT_EQ(tools_of(difference.same), "task");
    EXPECT_EQ(tools_of(difference.missing), "task note");
    EXPECT_EQ(tools_of(difference.added), "drink");
    EXPECT_EQ(difference.same_tool, 0);
    EXPECT_EQ(difference.approved, 2);
    EXPECT_EQ(difference.approved_same, 1);
    EXPECT_EQ(difference.approved_same_tool, 1);
}

TEST(PlanDifference, CountsToolsWithOtherParameters) {
    const auto difference =
        compare_plans({step("task", R"({"t": "a"})"), step("task", R"({"t": "b"})", true),
                       step("note", "{}", true)},
                      {step("task", R"({"t": "c"})"), step("note", "{}")});
    EXPECT_EQ(tools_of(difference.same), "note");
    EXPECT_EQ(difference.same_tool, 1);
    EXPECT_EQ(difference.approved, 2);
    EXPECT_EQ(difference.approved_same, 1);
    EXPECT_EQ(difference.approved_same_tool, 2);
}

TEST(PlanDifference, OfEmptyPlansIsEmpty) {
    const auto difference = compare_plans({}, {});
    EXPECT_TRUE(difference.same.empty() && difference.missing.empty() && difference.added.empty());
    EXPECT_EQ(to_json({step("task", R"({"t": 1})")}),
              json(R"([{"tool": "task", "params": {"t": 1}}])"));
    EXPECT_EQ(to_json({}), Json::array());
}

}  // namespace
}  // namespace mana_ai::core
