#include "mana_ai/core/planner/planner_loop.hpp"

#include <gtest/gtest.h>

#include "../builtin_tools.hpp"

namespace mana_ai::core {
namespace {

ToolCallRequest task(const std::string& title, const std::string& id = "c1") {
    return {id, "create_task", Json{{"title", title}}.dump()};
}

ModelReply calls(std::vector<ToolCallRequest> tool_calls) {
    ModelReply reply;
    reply.tool_calls = std::move(tool_calls);
    reply.usage = {10, 2, 12};
    return reply;
}

ModelReply says(std::string content) {
    ModelReply reply;
    reply.content = std::move(content);
    reply.usage = {20, 3, 23};
    return reply;
}

class Planner : public ::testing::Test {
 protected:
    Json request() const { return Json::parse(loop_.request_body("google/gemini").text); }

    PlannerLoop loop_{"SYSTEM", "USER", offer(testing::builtin_tools(), nullptr)};
};

TEST_F(Planner, StartsWithSystemAndUserPromptAndTools) {
    const Json body = request();
    EXPECT_EQ(body["model"], "google/gemini");
    EXPECT_EQ(body["temperature"], 0.3);
    EXPECT_EQ(body["stream"], false);
    EXPECT_EQ(body["tool_choice"], "auto");
    EXPECT_EQ(body["messages"], Json::parse(R"([{"role": "system", "content": "SYSTEM"},
                              {"role": "user", "content": "USER"}])"));
    EXPECT_GT(body["tools"].size(), 40U);
}

TEST_F(Planner, EndsWithTheModelsWordsWhenItCallsNoTool) {
    loop_.on_reply(says("  Nichts zu tun.\n"));
    EXPECT_TRUE(loop_.finished());
    EXPECT_EQ(loop_.rounds(), 1);
    EXPECT_EQ(loop_.summary(), "Nichts zu tun.");
    EXPECT_TRUE(loop_.steps().empty());
    EXPECT_EQ(loop_.usage().total, 23);
}

TEST_F(Planner, AnswersEveryCallInOrderAndGoesOn) {
    loop_.on_reply(calls({task("A", "c1"), {"c2", "make_coffee", "{}"}, task("B", "c3")}));
    EXPECT_FALSE(loop_.finished());
    const Json messages = request()["messages"];
    ASSERT_EQ(messages.size(), 6U);
    EXPECT_EQ(messages[2]["role"], "assistant");
    EXPECT_EQ(messages[2]["tool_calls"].size(), 3U);
    for (int i = 0; i < 3; ++i) {
        EXPECT_EQ(messages[3 + i]["role"], "tool");
        EXPECT_EQ(messages[3 + i]["tool_call_id"], "c" + std::to_string(i + 1));
        const Json answer = Json::parse(messages[3 + i]["content"].get<std::string>());
        EXPECT_EQ(answer["success"], i != 1);
        EXPECT_FALSE(answer["message"].get<std::string>().empty());
    }
    ASSERT_EQ(loop_.steps().size(), 2U);
    EXPECT_EQ(loop_.steps()[1].summary, "Aufgabe anlegen: B");
    EXPECT_EQ(loop_.steps()[1].params, (Json{{"title", "B"}}));
    loop_.on_reply(says("Fertig."));
    EXPECT_TRUE(loop_.finished());
    EXPECT_EQ(loop_.rounds(), 2);
    EXPECT_EQ(loop_.usage().prompt, 30);
    EXPECT_EQ(loop_.usage().completion, 5);
    EXPECT_EQ(loop_.usage().total, 35);
}

TEST_F(Planner, CountsEachCallWithItsOutcome) {
    loop_.on_reply(calls({task("A"), {"c2", "make_coffee", "{}"}, {"c3", "create_task", "{"}}));
    ASSERT_EQ(loop_.calls().size(), 3U);
    EXPECT_EQ(loop_.calls()[0].tool, "create_task");
    EXPECT_STREQ(loop_.calls()[0].policy, "propose");
    EXPECT_STREQ(loop_.calls()[0].outcome, "deferred");
    EXPECT_EQ(loop_.calls()[1].tool, "unknown");
    EXPECT_STREQ(loop_.calls()[1].outcome, "rejected");
    EXPECT_STREQ(loop_.calls()[1].reason, "not-offered");
    EXPECT_STREQ(loop_.calls()[2].reason, "bad-json");
}

TEST_F(Planner, TagsEachMessageWithItsRole) {
    loop_.on_reply(calls({task("A")}));
    const Transcript& transcript = loop_.transcript();
    ASSERT_EQ(transcript.size(), 4U);
    EXPECT_EQ(transcript.role(0), Role::System);
    EXPECT_EQ(transcript.role(1), Role::User);
    EXPECT_EQ(transcript.role(2), Role::Assistant);
    EXPECT_EQ(transcript.role(3), Role::Tool);
}

TEST_F(Planner, EndsAfterFiveRoundsWithTheStepsItHas) {
    for (int round = 1; round <= 5; ++round) {
        EXPECT_FALSE(loop_.finished());
        loop_.on_reply(calls({task("T" + std::to_string(round))}));
    }
    EXPECT_TRUE(loop_.finished());
    EXPECT_EQ(loop_.rounds(), 5);
    EXPECT_EQ(loop_.steps().size(), 5U);
    EXPECT_TRUE(loop_.summary().starts_with(
        "Die Planung endete nach 5 Runden. 5 Schritte vorgeschlagen: Aufgabe anlegen: T1; "));
}

TEST_F(Planner, TakesTheSummaryOfTheFifthRound) {
    for (int round = 1; round <= 4; ++round) {
        loop_.on_reply(calls({task("T")}));
    }
    loop_.on_reply(says("Vier Aufgaben."));
    EXPECT_EQ(loop_.summary(), "Vier Aufgaben.");
    EXPECT_EQ(loop_.rounds(), 5);
}

TEST_F(Planner, EndsEarlyWithTheStepsItHas) {
    loop_.on_reply(calls({task("A")}));
    loop_.end_early("Das Tagesbudget ist aufgebraucht.");
    EXPECT_TRUE(loop_.finished());
    EXPECT_EQ(loop_.summary(),
              "Das Tagesbudget ist aufgebraucht. Ein Schritt vorgeschlagen: Aufgabe anlegen: A.");
}

TEST_F(Planner, IgnoresWhatComesAfterTheEndExceptItsUsage) {
    loop_.on_reply(says("Ende."));
    loop_.on_reply(calls({task("zu spät")}));
    loop_.end_early("Grund.");
    EXPECT_TRUE(loop_.steps().empty());
    EXPECT_EQ(loop_.rounds(), 1);
    EXPECT_EQ(loop_.summary(), "Ende.");
    EXPECT_EQ(loop_.usage().total, 35);
}

TEST_F(Planner, HasASummaryEvenWithoutAnyWords) {
    loop_.on_reply(says(" \n"));
    EXPECT_EQ(loop_.summary(), "Es wurde kein Schritt vorgeschlagen.");
    PlannerLoop other("S", "U", OfferedTools());
    EXPECT_FALSE(other.summary().empty());
    other.end_early("");
    EXPECT_EQ(other.summary(), "Es wurde kein Schritt vorgeschlagen.");
}

TEST_F(Planner, PlanNeverExceedsItsLimit) {
    std::vector<ToolCallRequest> many;
    for (int i = 0; i < 40; ++i) {
        many.push_back(task("T", "c" + std::to_string(i)));
    }
    loop_.on_reply(calls(many));
    EXPECT_EQ(loop_.steps().size(), static_cast<std::size_t>(PlannerLoop::kMaxSteps));
    EXPECT_EQ(loop_.calls().size(), 40U);
    EXPECT_STREQ(loop_.calls().back().reason, "plan-full");
    EXPECT_FALSE(loop_.finished());
}

TEST_F(Planner, SecondUndoIsRejectedWithinOneReply) {
    loop_.on_reply(calls({{"c1", "undo_drink", ""}, {"c2", "undo_drink", "{}"}}));
    EXPECT_EQ(loop_.steps().size(), 1U);
    EXPECT_STREQ(loop_.calls()[1].reason, "duplicate");
}

TEST_F(Planner, KeepsTheHistoryAcceptableToProviders) {
    loop_.on_reply(calls({{"c1", "", "{"},
                          {"c2", "create task!", "[1"},
                          {"c3", std::string(10'000, 'n'), "x"},
                          {"c4", "\xff\xfe", "null"}}));
    const Json messages = request()["messages"];
    for (const Json& call : messages[2]["tool_calls"]) {
        EXPECT_TRUE(is_valid_tool_name(call["function"]["name"].get<std::string>()));
        EXPECT_TRUE(Json::parse(call["function"]["arguments"].get<std::string>()).is_object());
    }
    EXPECT_NE(dump_json(messages[4]).find("create task!"), std::string::npos);
}

TEST_F(Planner, SummaryIsBoundedAndFitForJsonb) {
    loop_.on_reply(says(std::string("a\0b\xff", 4) + std::string(1'000'000, 'x')));
    const std::string summary = loop_.summary();
    EXPECT_EQ(summary.find('\0'), std::string::npos);
    EXPECT_TRUE(summary.starts_with("ab\xEF\xBF\xBDx"));
    EXPECT_LT(summary.size(), PlannerLoop::kMaxSummary + 10);
}

TEST_F(Planner, WorksWithoutTools) {
    PlannerLoop loop("S", "U", OfferedTools());
    const Json body = Json::parse(loop.request_body("m").text);
    EXPECT_FALSE(body.contains("tools"));
    EXPECT_FALSE(body.contains("tool_choice"));
    loop.on_reply(calls({task("A")}));
    EXPECT_STREQ(loop.calls()[0].reason, "not-offered");
}

TEST_F(Planner, DeniedToolsCannotBeCalled) {
    const Policy policy = parse_policy(Json::parse(R"({"tools": {"create_task": "deny"}})"));
    PlannerLoop loop("S", "U", offer(testing::builtin_tools(), &policy));
    loop.on_reply(calls({task("A"), {"c2", "create_note", R"({"content": "x"})"}}));
    ASSERT_EQ(loop.steps().size(), 1U);
    EXPECT_EQ(loop.steps()[0].tool_name, "create_note");
}

TEST_F(Planner, RequestsAreJsonForPromptsOfAnyBytes) {
    PlannerLoop loop(std::string("\xff\0\"\\", 4), std::string(1'000'000, '\n'), OfferedTools());
    EXPECT_TRUE(parse_json(loop.request_body("m\"\\\xff").text));
}

}  // namespace
}  // namespace mana_ai::core
