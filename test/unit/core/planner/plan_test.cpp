#include "mana_ai/core/planner/plan.hpp"

#include <gtest/gtest.h>

#include "../builtin_tools.hpp"

namespace mana_ai::core {
namespace {

std::string summary_of(const char* tool_name, const Json& params) {
    for (const Tool& tool : testing::builtin_tools()) {
        if (tool.name == tool_name) {
            return make_plan_step(tool, params).summary;
        }
    }
    return "no such tool";
}

TEST(PlanStep, SaysTheActionAndItsMainArgument) {
    EXPECT_EQ(summary_of("create_task", {{"title", "Milch kaufen"}, {"priority", "high"}}),
              "Aufgabe anlegen: Milch kaufen");
    EXPECT_EQ(summary_of("create_note", {{"content", "Text"}}), "Notiz anlegen: Text");
    EXPECT_EQ(summary_of("create_place", {{"name", "Hafen"}, {"latitude", 1.5}}),
              "Ort speichern: Hafen");
    EXPECT_EQ(summary_of("undo_drink", Json::object()), "Letztes Getränk zurücknehmen");
}

TEST(PlanStep, PrefersTextOverChoicesOverNumbersOverIds) {
    EXPECT_EQ(summary_of("add_transaction",
                         {{"type", "expense"}, {"amount", 3.5}, {"description", "Kaffee"}}),
              "Buchung eintragen: Kaffee");
    EXPECT_EQ(summary_of("log_mood", {{"level", 7}, {"emotion", "calm"}}),
              "Stimmung eintragen: calm");
    EXPECT_EQ(summary_of("rate_library_entry", {{"entryId", "e1"}, {"rating", 4.5}}),
              "Bibliothekstitel bewerten: 4.5");
    EXPECT_EQ(summary_of("complete_task", {{"taskId", "t1"}}),
              "Aufgabe als erledigt markieren: t1");
}

TEST(PlanStep, SummaryIsOneShortLine) {
    EXPECT_EQ(summary_of("create_note", {{"content", "\n\n Zeile 1\r\n\tZeile 2 \n"}}),
              "Notiz anlegen: Zeile 1 Zeile 2");
    const std::string summary = summary_of("create_task", {{"title", std::string(1'000'000, 'x')}});
    EXPECT_EQ(summary.size(), kMaxStepSummary - 1 + std::string("…").size());
    EXPECT_TRUE(summary.ends_with("x…"));
}

TEST(PlanStep, SummaryIsNeverEmpty) {
    Tool tool = *parse_tool("nameless", "m", "", "propose", "[]");
    EXPECT_EQ(make_plan_step(tool, Json::object()).summary, "nameless");
    tool.description = " . ";
    EXPECT_EQ(make_plan_step(tool, Json::object()).summary, "nameless");
}

TEST(PlanStep, ToleratesParamsOfAnyType) {
    for (const Tool& tool : testing::builtin_tools()) {
        for (const Json& odd : testing::odd_values()) {
            Json params = Json::object();
            for (const ToolParameter& parameter : tool.parameters) {
                params[parameter.name] = odd;
            }
            const PlanStep step = make_plan_step(tool, params);
            EXPECT_FALSE(step.summary.empty());
            EXPECT_EQ(step.tool_name, tool.name);
            EXPECT_TRUE(parse_json(dump_json(step.summary)));
        }
    }
}

TEST(PlanStep, EveryBuiltinToolNamesItsActionInAFewWords) {
    for (const Tool& tool : testing::builtin_tools()) {
        const std::string action = make_plan_step(tool, Json::object()).summary;
        EXPECT_LT(action.size(), 60U) << action;
        EXPECT_FALSE(action.ends_with('.')) << action;
    }
}

}  // namespace
}  // namespace mana_ai::core
