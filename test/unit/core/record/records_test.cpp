#include "mana_ai/core/record/records.hpp"

#include <gtest/gtest.h>

#include <limits>

#include "../builtin_tools.hpp"

namespace mana_ai::core {
namespace {

TEST(Agent, ReadsAWholeRecord) {
    const Agent agent = parse_agent(Json::parse(R"({
        "id": "a1", "name": "Nora", "role": "Coach", "systemPrompt": "Sei freundlich.",
        "memory": "Mag Tee.", "policy": {"tools": {"create_task": "deny"}}, "state": "paused",
        "maxConcurrentMissions": 3, "maxTokensPerDay": 5000})"));
    EXPECT_EQ(agent.id, "a1");
    EXPECT_EQ(agent.name, "Nora");
    EXPECT_EQ(agent.role, "Coach");
    EXPECT_EQ(agent.system_prompt, "Sei freundlich.");
    EXPECT_EQ(agent.memory, "Mag Tee.");
    EXPECT_EQ(decide(agent.policy, "create_task", "todo"), Decision::Deny);
    EXPECT_EQ(agent.state, "paused");
    EXPECT_EQ(agent.max_concurrent_missions, 3);
    EXPECT_EQ(agent.max_tokens_per_day, 5000);
}

TEST(Agent, HasDefaultsForWhatIsMissing) {
    const Agent agent = parse_agent(Json{{"id", "a1"}});
    EXPECT_EQ(agent.state, "active");
    EXPECT_EQ(agent.max_concurrent_missions, 1);
    EXPECT_EQ(agent.max_tokens_per_day, std::nullopt);
    EXPECT_EQ(agent.system_prompt, std::nullopt);
}

TEST(Agent, KeepsACapOfZeroApartFromNone) {
    EXPECT_EQ(parse_agent(Json{{"maxTokensPerDay", 0}}).max_tokens_per_day, 0);
    EXPECT_EQ(parse_agent(Json{{"maxTokensPerDay", nullptr}}).max_tokens_per_day, std::nullopt);
}

TEST(Agent, ClampsNumbers) {
    constexpr auto kMax64 = std::numeric_limits<std::int64_t>::max();
    const auto cap = [](const Json& value) {
        return parse_agent(Json{{"maxTokensPerDay", value}}).max_tokens_per_day;
    };
    EXPECT_EQ(cap(-5), 0);
    EXPECT_EQ(cap(-0.5), 0);
    EXPECT_EQ(cap(1000.9), 1000);
    EXPECT_EQ(cap(1e300), kMax64);
    EXPECT_EQ(cap(18446744073709551615ULL), kMax64);
    EXPECT_EQ(cap(9.3e18), kMax64);
    EXPECT_EQ(cap(std::numeric_limits<double>::quiet_NaN()), 0);
    EXPECT_EQ(cap("5000"), std::nullopt);
    EXPECT_EQ(parse_agent(Json{{"maxConcurrentMissions", 1e12}}).max_concurrent_missions,
              std::numeric_limits<int>::max());
}

TEST(Agent, LeavesOutCiphertextAndBlankTexts) {
    const Agent agent = parse_agent(Json{{"systemPrompt", "enc:1:aa.bb"}, {"memory", " \n"}});
    EXPECT_EQ(agent.system_prompt, std::nullopt);
    EXPECT_EQ(agent.memory, std::nullopt);
}

TEST(Agent, ToleratesAnyJson) {
    for (const Json& odd : testing::odd_values()) {
        parse_agent(odd);
        for (const char* key : {"id", "name", "role", "systemPrompt", "memory", "policy", "state",
                                "maxConcurrentMissions", "maxTokensPerDay"}) {
            parse_agent(Json{{key, odd}});
        }
    }
}

TEST(Mission, ReadsAWholeRecord) {
    const Mission mission = parse_mission(Json::parse(R"({
        "id": "m1", "title": "Fit", "objective": "Laufen", "conceptMarkdown": "# Plan",
        "state": "active", "nextRunAt": "2026-04-15T00:00:00Z", "agentId": "a1",
        "inputs": [{"module": "notes"}], "cadence": {"kind": "manual"}, "iterations": [{}, 1]})"));
    EXPECT_EQ(mission.id, "m1");
    EXPECT_EQ(mission.title, "Fit");
    EXPECT_EQ(mission.objective, "Laufen");
    EXPECT_EQ(mission.concept_markdown, "# Plan");
    EXPECT_EQ(mission.state, "active");
    EXPECT_EQ(mission.next_run_at, parse_instant("2026-04-15T00:00:00Z"));
    EXPECT_EQ(mission.agent_id, "a1");
    EXPECT_EQ(mission.inputs.size(), 1U);
    EXPECT_EQ(mission.cadence["kind"], "manual");
    EXPECT_EQ(mission.iterations.size(), 2U);
}

TEST(Mission, HasNoNextRunThatIsNoInstant) {
    for (const Json& bad : {Json("morgen"), Json(5), Json("2026-02-30T00:00:00Z")}) {
        EXPECT_EQ(parse_mission(Json{{"nextRunAt", bad}}).next_run_at, std::nullopt);
    }
}

TEST(Mission, IsEncryptedWhenAnyOfItsTextsIs) {
    EXPECT_FALSE(parse_mission(Json{{"title", "Fit"}}).has_ciphertext());
    for (const char* key : {"title", "objective", "conceptMarkdown"}) {
        EXPECT_TRUE(parse_mission(Json{{key, "enc:1:aa.bb"}}).has_ciphertext()) << key;
    }
    EXPECT_FALSE(is_ciphertext("enc:2:aa"));
    EXPECT_FALSE(is_ciphertext(" enc:1:aa"));
}

TEST(Mission, ToleratesAnyJson) {
    for (const Json& odd : testing::odd_values()) {
        EXPECT_TRUE(parse_mission(odd).iterations.is_array());
        for (const char* key : {"id", "title", "objective", "conceptMarkdown", "state", "nextRunAt",
                                "inputs", "cadence", "iterations", "agentId"}) {
            const Mission mission = parse_mission(Json{{key, odd}});
            EXPECT_TRUE(mission.iterations.is_array());
            EXPECT_TRUE(mission.inputs.is_array());
        }
    }
}

TEST(Mission, NeedsTheAgentThatItNamesExceptTheLegacyOne) {
    const Agent agent;
    EXPECT_FALSE(is_agent_missing(parse_mission(Json::object()), nullptr));
    EXPECT_FALSE(is_agent_missing(parse_mission(Json{{"agentId", ""}}), nullptr));
    EXPECT_FALSE(is_agent_missing(parse_mission(Json{{"agentId", nullptr}}), nullptr));
    EXPECT_FALSE(is_agent_missing(parse_mission(Json{{"agentId", "legacy:ai-default"}}), nullptr));
    EXPECT_TRUE(is_agent_missing(parse_mission(Json{{"agentId", "a1"}}), nullptr));
    EXPECT_FALSE(is_agent_missing(parse_mission(Json{{"agentId", "a1"}}), &agent));
    // Must not run as if it had no agent, without policy and budget.
    EXPECT_TRUE(is_agent_missing(parse_mission(Json{{"agentId", 42}}), nullptr));
}

}  // namespace
}  // namespace mana_ai::core
