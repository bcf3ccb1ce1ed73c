#include "mana_ai/core/planner/gates.hpp"

#include <gtest/gtest.h>

namespace mana_ai::core {
namespace {

Mission mission_with(const Json& fields) {
    return parse_mission(fields);
}

// Everything closed at once; each test opens one gate after the other.
struct AllClosed {
    Mission mission = mission_with(Json{{"title", "enc:1:a.b"}});
    Agent agent;
    GateInput input{.mission = mission,
                    .agent = &agent,
                    .agent_missing = true,
                    .agent_running = 1,
                    .agent_tokens_24h = 10,
                    .max_unreviewed = 1,
                    .ciphertext_opened = false,
                    .runs_in_browser = true,
                    .research_pending = true};

    AllClosed() {
        mission.unreviewed = 1;
        agent.state = "archived";
        agent.max_tokens_per_day = 10;
    }
};

TEST(Gates, AreJudgedInTheOrderOfTheSpec) {
    AllClosed closed;
    GateInput& input = closed.input;
    EXPECT_EQ(judge_gates(input), GateDecision::SkippedAgentMissing);
    input.agent_missing = false;
    EXPECT_EQ(judge_gates(input), GateDecision::SkippedArchived);
    closed.agent.state = "paused";
    EXPECT_EQ(judge_gates(input), GateDecision::SkippedPaused);
    closed.agent.state = "active";
    EXPECT_EQ(judge_gates(input), GateDecision::SkippedConcurrency);
    input.agent_running = 0;
    EXPECT_EQ(judge_gates(input), GateDecision::SkippedBudget);
    input.agent_tokens_24h = 9;
    EXPECT_EQ(judge_gates(input), GateDecision::SkippedEncrypted);
    input.ciphertext_opened = true;
    EXPECT_EQ(judge_gates(input), GateDecision::SkippedUnreviewed);
    input.max_unreviewed = 2;
    EXPECT_EQ(judge_gates(input), GateDecision::SkippedBrowserRun);
    input.runs_in_browser = false;
    EXPECT_EQ(judge_gates(input), GateDecision::SkippedResearch);
    input.research_pending = false;
    EXPECT_EQ(judge_gates(input), GateDecision::Ran);
}

TEST(Gates, OfTheAgentDoNotConcernAMissionWithoutOne) {
    const Mission mission = mission_with(Json::object());
    EXPECT_EQ(judge_gates({.mission = mission, .agent_running = 99, .agent_tokens_24h = 1 << 30}),
              GateDecision::Ran);
}

TEST(Gates, BudgetOfZeroNeverRunsAndNoBudgetAlwaysDoes) {
    Agent agent;
    EXPECT_FALSE(is_budget_used_up(agent, 1'000'000'000));
    agent.max_tokens_per_day = 0;
    EXPECT_TRUE(is_budget_used_up(agent, 0));
    agent.max_tokens_per_day = 100;
    EXPECT_FALSE(is_budget_used_up(agent, 99));
    EXPECT_TRUE(is_budget_used_up(agent, 100));
}

TEST(Gates, UnreviewedLimitOfZeroMeansNone) {
    AllClosed closed;
    const GateInput input{
        .mission = closed.mission, .max_unreviewed = 0, .ciphertext_opened = true};
    EXPECT_EQ(judge_gates(input), GateDecision::Ran);
}

TEST(Gates, ConcurrencyIsThatOfTheAgent) {
    const Mission mission = mission_with(Json::object());
    Agent agent;
    agent.max_concurrent_missions = 3;
    EXPECT_EQ(judge_gates({.mission = mission, .agent = &agent, .agent_running = 2}),
              GateDecision::Ran);
    EXPECT_EQ(judge_gates({.mission = mission, .agent = &agent, .agent_running = 3}),
              GateDecision::SkippedConcurrency);
}

TEST(Gates, NamesAreThoseOfTheSpec) {
    EXPECT_STREQ(name(GateDecision::Ran), "ran");
    EXPECT_STREQ(name(GateDecision::SkippedArchived), "skipped-archived");
    EXPECT_STREQ(name(GateDecision::SkippedPaused), "skipped-paused");
    EXPECT_STREQ(name(GateDecision::SkippedConcurrency), "skipped-concurrency");
    EXPECT_STREQ(name(GateDecision::SkippedBudget), "skipped-budget");
    EXPECT_STREQ(name(GateDecision::SkippedEncrypted), "skipped-encrypted");
    EXPECT_STREQ(name(GateDecision::SkippedUnreviewed), "skipped-unreviewed");
    EXPECT_STREQ(name(GateDecision::SkippedResearch), "skipped-research");
    EXPECT_STREQ(name(GateDecision::SkippedBrowserRun), "skipped-browser-run");
    EXPECT_STREQ(name(GateDecision::SkippedAgentMissing), "skipped-agent-missing");
    EXPECT_STREQ(name(GateDecision::SkippedMemberHold), "skipped-member-hold");
    EXPECT_STREQ(name(GateDecision::SkippedStopped), "skipped-stopped");
    EXPECT_STREQ(name(GateDecision::SkippedUnchanged), "skipped-unchanged");
}

TEST(Gates, WhatAnOperatorHasStoppedIsNotLookedAt) {
    const Mission mission;
    EXPECT_EQ(judge_gates({.mission = mission, .record_unreadable = true, .stopped = true}),
              GateDecision::SkippedStopped);
}

TEST(Gates, RecordsThatCannotBePlannedComeFirst) {
    const Mission mission;
    GateInput input{.mission = mission};
    input.agent_missing = true;
    EXPECT_FALSE(is_about_records(judge_gates(input)));
    input.clock_ahead = true;
    EXPECT_STREQ(name(judge_gates(input)), "skipped-clock-ahead");
    input.record_unreadable = true;
    EXPECT_STREQ(name(judge_gates(input)), "skipped-unreadable");
    input.record_too_large = true;
    EXPECT_STREQ(name(judge_gates(input)), "skipped-too-large");
    EXPECT_TRUE(is_about_records(judge_gates(input)));
}

}  // namespace
}  // namespace mana_ai::core
