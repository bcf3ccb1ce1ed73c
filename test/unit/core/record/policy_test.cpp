#include "mana_ai/core/record/policy.hpp"

#include <gtest/gtest.h>

#include "../builtin_tools.hpp"

namespace mana_ai::core {
namespace {

TEST(Policy, ToolsOwnEntryBeatsModuleBeatsDefault) {
    const Policy policy = parse_policy(Json::parse(R"({
        "tools": {"create_task": "auto"},
        "defaultsByModule": {"todo": "deny", "notes": "propose"},
        "defaultForAi": "deny"})"));
    EXPECT_EQ(decide(policy, "create_task", "todo"), Decision::Auto);
    EXPECT_EQ(decide(policy, "complete_task", "todo"), Decision::Deny);
    EXPECT_EQ(decide(policy, "create_note", "notes"), Decision::Propose);
    EXPECT_EQ(decide(policy, "create_event", "calendar"), Decision::Deny);
}

TEST(Policy, ProposesWithoutAnyEntry) {
    EXPECT_EQ(decide(Policy{}, "create_task", "todo"), Decision::Propose);
    EXPECT_EQ(decide(parse_policy(Json::object()), "create_task", "todo"), Decision::Propose);
}

TEST(Policy, UnknownDecisionsLeaveItToTheNextLevel) {
    const Policy policy = parse_policy(Json::parse(R"({
        "tools": {"create_task": "DENY", "create_note": 7, "create_event": null},
        "defaultsByModule": {"todo": "deny", "notes": []},
        "defaultForAi": "sometimes"})"));
    EXPECT_EQ(decide(policy, "create_task", "todo"), Decision::Deny);
    EXPECT_EQ(decide(policy, "create_note", "notes"), Decision::Propose);
    EXPECT_EQ(decide(policy, "create_event", "calendar"), Decision::Propose);
}

TEST(Policy, ToleratesAnyJson) {
    for (const Json& odd : testing::odd_values()) {
        EXPECT_EQ(decide(parse_policy(odd), "x", "y"), Decision::Propose);
        const Policy policy =
            parse_policy(Json{{"tools", odd}, {"defaultsByModule", odd}, {"defaultForAi", odd}});
        EXPECT_EQ(decide(policy, "x", "y"), Decision::Propose);
    }
}

TEST(Policy, DecisionNamesRoundTrip) {
    for (const Decision decision : {Decision::Auto, Decision::Propose, Decision::Deny}) {
        EXPECT_EQ(decision_from_name(name(decision)), decision);
    }
    EXPECT_EQ(decision_from_name(""), std::nullopt);
    EXPECT_EQ(decision_from_name("Auto"), std::nullopt);
}

}  // namespace
}  // namespace mana_ai::core
