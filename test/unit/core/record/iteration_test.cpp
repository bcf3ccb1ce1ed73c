#include "mana_ai/core/record/iteration.hpp"

#include <gtest/gtest.h>

namespace mana_ai::core {
namespace {

TEST(Iteration, HasTheShapeOfTheSpec) {
    const std::vector<PlanStep> steps = {
        {"Aufgabe anlegen: A", "create_task", Json{{"title", "A"}}},
        {"Notiz anlegen: B", "create_note", Json{{"content", "B"}}}};
    const Instant start = *parse_instant("2026-04-15T00:00:00Z");
    EXPECT_EQ(build_iteration({"it1", start, start + 1'500'900, steps, "Zwei Schritte."}),
              Json::parse(R"({
        "id": "it1", "startedAt": "2026-04-15T00:00:00.000Z",
        "finishedAt": "2026-04-15T00:00:01.500Z", "summary": "Zwei Schritte.",
        "overallStatus": "awaiting-review", "source": "server",
        "plan": [
            {"id": "it1-0", "summary": "Aufgabe anlegen: A", "status": "planned",
             "intent": {"kind": "toolCall", "toolName": "create_task", "params": {"title": "A"}}},
            {"id": "it1-1", "summary": "Notiz anlegen: B", "status": "planned",
             "intent": {"kind": "toolCall", "toolName": "create_note", "params": {"content": "B"}}}
        ]})"));
}

TEST(Iteration, StepsOfAPlanThatWaitsForItsUserAreStaged) {
    const Policy policy = parse_policy(Json::parse(R"({
        "tools": {"create_task": "auto", "create_note": "propose"},
        "defaultsByModule": {"habits": "auto"}, "defaultForAi": "propose"})"));
    std::vector<PlanStep> steps;
    for (const auto& [tool, module] :
         {std::pair("create_task", "todo"), std::pair("create_note", "notes"),
          std::pair("log_habit", "habits"), std::pair("log_mood", "mood")}) {
        steps.push_back({"Schritt", tool, Json::object(), module});
    }
    const auto statuses = [&](StepStatus status, const Policy* of_agent) {
        std::string all;
        const Json iteration = build_iteration({"it1", 0, 0, steps, "Vier.", status, of_agent});
        for (const Json& step : iteration["plan"]) {
            all += (all.empty() ? "" : " ") + step["status"].get<std::string>();
        }
        return all;
    };
    EXPECT_EQ(statuses(StepStatus::Planned, &policy), "planned planned planned planned");
    EXPECT_EQ(statuses(StepStatus::Staged, &policy), "staged staged staged staged");
    EXPECT_EQ(statuses(StepStatus::ByPolicy, &policy), "planned staged planned staged");
    EXPECT_EQ(statuses(StepStatus::ByPolicy, nullptr), "staged staged staged staged");
}

TEST(Iteration, NamesTheVersionOfThePrompt) {
    const std::vector<PlanStep> none;
    EXPECT_FALSE(build_iteration({"it1", 0, 0, none, "S."}).contains("promptVersion"));
    IterationInput input{"it1", 0, 0, none, "S."};
    input.prompt_version = "0123456789ab";
    EXPECT_EQ(build_iteration(input)["promptVersion"], "0123456789ab");
}

TEST(Iteration, SaysWhatHasChangedSinceItWasRead) {
    const std::vector<PlanStep> none;
    IterationInput input{"it1", 0, 0, none, "S."};
    EXPECT_FALSE(build_iteration(input).contains("changedSince"));
    input.changed_since = {{"notes", "n1", 0}, {"events", "e1", std::nullopt}};
    EXPECT_EQ(build_iteration(input)["changedSince"],
              Json::parse(R"([{"table": "notes", "id": "n1", "at": "1970-01-01T00:00:00.000Z"},
                              {"table": "events", "id": "e1", "at": null}])"));
    EXPECT_FALSE(build_iteration(input).contains("changedSinceIncomplete"));
    input.changed_since_is_incomplete = true;
    EXPECT_EQ(build_iteration(input)["changedSinceIncomplete"], true);
}

TEST(Iteration, WithoutStepsNeedsNoReview) {
    const std::vector<PlanStep> none;
    const Json iteration = build_iteration({"it1", 0, 0, none, "Nichts zu tun."});
    EXPECT_EQ(iteration["overallStatus"], "approved");
    EXPECT_EQ(iteration["plan"], Json::array());
}

TEST(Iteration, HoldsNothingThatJsonbRefuses) {
    const std::vector<PlanStep> steps = {
        {std::string("a\0", 2), "t", Json{{"k", std::string("\0x", 2)}}}};
    const Json iteration = build_iteration({"it1", 0, 0, steps, std::string("s\0", 2)});
    EXPECT_EQ(dump_json(iteration).find("\\u0000"), std::string::npos);
}

TEST(Actor, IsTheAgent) {
    Agent agent;
    agent.id = "a1";
    agent.name = "Nora";
    const Mission mission = parse_mission({{"id", "m1"}, {"objective", "Laufen"}});
    EXPECT_EQ(build_actor(&agent, mission, "it1", false), Json::parse(R"({
        "kind": "ai", "principalId": "a1", "displayName": "Nora", "missionId": "m1",
        "iterationId": "it1", "rationale": "Laufen"})"));
}

TEST(Actor, WithoutAgentIsTheLegacyPrincipal) {
    const Json actor = build_actor(nullptr, parse_mission({{"id", "m1"}}), "it1", false);
    EXPECT_EQ(actor["principalId"], "legacy:ai-default");
    EXPECT_EQ(actor["displayName"], "Mana");
}

TEST(Actor, NeverTellsADecryptedOrEncryptedObjective) {
    const Mission opened = parse_mission({{"id", "m1"}, {"objective", "geheim"}});
    EXPECT_EQ(build_actor(nullptr, opened, "it1", true)["rationale"], "");
    const Mission closed = parse_mission({{"id", "m1"}, {"objective", "enc:1:a.b"}});
    EXPECT_EQ(build_actor(nullptr, closed, "it1", false)["rationale"], "");
}

}  // namespace
}  // namespace mana_ai::core
