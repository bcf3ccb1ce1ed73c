#include "mana_ai/core/planner/tool_call.hpp"

#include <gtest/gtest.h>

#include "../builtin_tools.hpp"

namespace mana_ai::core {
namespace {

class ToolCall : public ::testing::Test {
 protected:
    ToolVerdict judge(std::string name, std::string arguments) const {
        return judge_tool_call(offered_, {"call_1", std::move(name), std::move(arguments)}, plan_);
    }

    void expect_rejected(const char* tool, const char* arguments, const char* reason,
                         const char* part_of_message) const {
        const ToolVerdict verdict = judge(tool, arguments);
        EXPECT_FALSE(verdict.accepted) << arguments;
        EXPECT_STREQ(verdict.reject_reason, reason) << arguments;
        EXPECT_NE(verdict.message.find(part_of_message), std::string::npos) << verdict.message;
    }

    OfferedTools offered_ = offer(testing::builtin_tools(), nullptr);
    std::vector<PlanStep> plan_;
};

TEST_F(ToolCall, IsAcceptedWhenAllFits) {
    const ToolVerdict verdict =
        judge("create_task", R"({"title": "Milch", "priority": "low", "dueDate": "2026-04-15"})");
    EXPECT_TRUE(verdict.accepted);
    EXPECT_STREQ(verdict.reject_reason, "");
    EXPECT_NE(verdict.message.find("auf dem Gerät"), std::string::npos);
    EXPECT_EQ(verdict.params,
              Json::parse(R"({"title": "Milch", "priority": "low", "dueDate": "2026-04-15"})"));
    EXPECT_TRUE(Json::parse(tool_answer(verdict))["success"].get<bool>());
}

TEST_F(ToolCall, IsRejectedWhenTheToolIsNotOffered) {
    expect_rejected("make_coffee", "{}", "not-offered", "make_coffee");
    expect_rejected("list_tasks", "{}", "not-offered", "list_tasks");
    expect_rejected("Create_Task", R"({"title": "x"})", "not-offered", "genau so geschrieben");
    expect_rejected("", "{}", "not-offered", "angebotenen");
}

TEST_F(ToolCall, IsRejectedWhenArgumentsAreNoObject) {
    for (const char* arguments : {"{", "title=Milch", "{'title': 'x'}", "{\"title\": \"\xff\"}"}) {
        expect_rejected("create_task", arguments, "bad-json", "kein gültiges JSON");
    }
    for (const char* arguments : {"[]", "\"x\"", "5", "true", "null"}) {
        expect_rejected("create_task", arguments, "bad-json", "JSON-Objekt");
    }
    const std::string deep = std::string(100'000, '[') + std::string(100'000, ']');
    EXPECT_STREQ(judge("create_task", deep).reject_reason, "bad-json");
}

TEST_F(ToolCall, TakesBlankArgumentsAsNone) {
    EXPECT_TRUE(judge("undo_drink", "").accepted);
    EXPECT_TRUE(judge("stop_timer", " \n").accepted);
    expect_rejected("create_task", "", "missing-parameter", "„title“ fehlt");
}

TEST_F(ToolCall, NeedsRequiredParametersThatAreNotEmpty) {
    expect_rejected("create_task", "{}", "missing-parameter", "„title“ fehlt");
    expect_rejected("create_task", R"({"title": null})", "missing-parameter", "ist leer");
    expect_rejected("create_task", R"({"title": ""})", "missing-parameter", "ist leer");
    expect_rejected("create_task", R"({"title": " \t\n\u00a0\u200b"})", "missing-parameter",
                    "ist leer");
    expect_rejected("create_task", R"({"title": "\u0000"})", "missing-parameter", "ist leer");
    expect_rejected("create_invoice", R"({"clientName": "A", "lines": []})", "missing-parameter",
                    "„lines“ ist leer");
    expect_rejected("update_website_block", R"({"blockId": "b", "patch": {}})", "missing-parameter",
                    "„patch“ ist leer");
}

TEST_F(ToolCall, NeedsValuesOfTheRightType) {
    expect_rejected("create_task", R"({"title": 5})", "wrong-type", "die Zahl 5");
    expect_rejected("create_task", R"({"title": ["a"]})", "wrong-type", "ein Array");
    expect_rejected("add_transaction", R"({"type": "income", "amount": "5", "description": "x"})",
                    "wrong-type", "ohne Anführungszeichen sein; angegeben ist der Text „5“");
    expect_rejected("add_transaction", R"({"type": "income", "amount": true, "description": "x"})",
                    "wrong-type", "angegeben ist true");
    expect_rejected("create_event",
                    R"({"title": "a", "startTime": "b", "endTime": "c", "isAllDay": "true"})",
                    "wrong-type", "true oder false ohne Anführungszeichen");
    expect_rejected("create_event",
                    R"({"title": "a", "startTime": "b", "endTime": "c", "isAllDay": 1})",
                    "wrong-type", "die Zahl 1");
    expect_rejected("update_website_block", R"({"blockId": "b", "patch": "{\"a\":1}"})",
                    "wrong-type", "ein JSON-Objekt {…}, nicht als Text");
    expect_rejected("create_invoice", R"({"clientName": "A", "lines": {"a": 1}})", "wrong-type",
                    "ein JSON-Array");
    EXPECT_TRUE(judge("add_transaction", R"({"type": "income", "amount": 1e2, "description": "x"})")
                    .accepted);
    EXPECT_TRUE(judge("update_website_block", R"({"blockId": "b", "patch": {"a": [1]}})").accepted);
}

TEST_F(ToolCall, NeedsValuesOfTheEnum) {
    expect_rejected("create_task", R"({"title": "x", "priority": "urgent"})", "not-in-enum",
                    "low, medium, high; angegeben ist der Text „urgent“");
    expect_rejected("create_task", R"({"title": "x", "priority": "Low"})", "not-in-enum", "„Low“");
    expect_rejected("create_task", R"({"title": "x", "priority": ""})", "not-in-enum",
                    "lass ihn weg");
    expect_rejected("create_task", R"({"title": "x", "priority": 1})", "wrong-type", "priority");
}

TEST(ToolBounds, RefuseWhatClientsWouldRefuse) {
    const OfferedTools offered = offer({*parse_tool("t", "m", "d", "propose", R"([
        {"name": "n", "type": "number", "required": false, "description": "", "minimum": 1, "maximum": 5},
        {"name": "i", "type": "integer", "required": false, "description": "", "minimum": 0},
        {"name": "s", "type": "string", "required": false, "description": "", "minLength": 2, "maxLength": 4}])")},
                                       nullptr);
    const auto judge = [&](const std::string& arguments) {
        return judge_tool_call(offered, {"", "t", arguments}, {});
    };
    for (const char* fits :
         {R"({"n": 1})", R"({"n": 5.0, "i": 0})", R"({"s": "ab"})", R"({"s": " abcd\n"})",
          R"({"s": "äöüß"})", R"({"s": "\ud83d\ude00"})", "{}", R"({"n": null})"}) {
        EXPECT_TRUE(judge(fits).accepted) << fits;
    }
    for (const char* wrong :
         {R"({"n": 0.99})", R"({"n": 5.01})", R"({"n": -1e300})", R"({"i": -1})", R"({"s": "a"})",
          R"({"s": " a "})", R"({"s": "abcde"})", R"({"s": "\ud83d\ude00\ud83d\ude00x"})"}) {
        EXPECT_STREQ(judge(wrong).reject_reason, "out-of-range") << wrong;
    }
    EXPECT_EQ(judge(R"({"i": -1})").message,
              "Parameter „i“ muss mindestens 0 sein; angegeben ist die Zahl -1.");
    EXPECT_EQ(judge(R"({"s": "a"})").message,
              "Der Text von „s“ muss zwischen 2 und 4 Zeichen lang sein; angegeben sind 1.");
}

TEST_F(ToolCall, NamesEverythingThatIsWrongAtOnce) {
    const ToolVerdict verdict = judge("create_event", R"({"startTime": 5, "isAllDay": "ja"})");
    EXPECT_STREQ(verdict.reject_reason, "missing-parameter");
    for (const char* part : {"title", "startTime", "endTime", "isAllDay"}) {
        EXPECT_NE(verdict.message.find(part), std::string::npos) << part;
    }
}

TEST_F(ToolCall, DropsNullsOfOptionalParameters) {
    const ToolVerdict verdict = judge("create_task", R"({"title": "x", "priority": null})");
    EXPECT_TRUE(verdict.accepted);
    EXPECT_EQ(verdict.params, (Json{{"title", "x"}}));
}

TEST_F(ToolCall, KeepsEmptyOptionalTexts) {
    EXPECT_EQ(judge("update_note", R"({"noteId": "n", "content": ""})").params["content"], "");
}

TEST_F(ToolCall, DropsUnknownParametersAndSaysSo) {
    const ToolVerdict verdict = judge("create_task", R"({"title": "x", "due_date": "morgen"})");
    EXPECT_TRUE(verdict.accepted);
    EXPECT_EQ(verdict.params, (Json{{"title", "x"}}));
    EXPECT_NE(verdict.message.find("„due_date“"), std::string::npos);
    EXPECT_NE(verdict.message.find("dueDate"), std::string::npos);
    EXPECT_NE(judge("undo_drink", R"({"x": 1})").message.find("keine Parameter"),
              std::string::npos);
    // Its schema names one, since providers want one.
    const ToolVerdict none = judge("undo_drink", R"({"none": "nichts"})");
    EXPECT_TRUE(none.accepted);
    EXPECT_EQ(none.params, Json::object());
    EXPECT_EQ(none.message.find("Unbekannte"), std::string::npos);
}

TEST_F(ToolCall, DropsPlaceholdersOfObjects) {
    const auto tool = parse_tool("t", "m", "d", "propose", R"([
        {"name": "o", "type": "object", "required": true},
        {"name": "l", "type": "array"},
        {"name": "k", "type": "object", "properties": [{"name": "none", "type": "string"}]}])");
    const OfferedTools offered = offer({*tool}, nullptr);
    const auto judged = [&](const char* arguments) {
        return judge_tool_call(offered, {"c", "t", arguments}, {});
    };
    const ToolVerdict verdict = judged(
        R"({"o": {"none": "x", "a": 1}, "l": [{"none": "", "b": 2}, 3], "k": {"none": "n"}})");
    EXPECT_TRUE(verdict.accepted) << verdict.message;
    EXPECT_EQ(verdict.params,
              Json::parse(R"({"o": {"a": 1}, "l": [{"b": 2}, 3], "k": {"none": "n"}})"));
    EXPECT_EQ(judged(R"({"o": {"none": 5}})").params, Json::parse(R"({"o": {"none": 5}})"));
    // Nothing but the placeholder is nothing.
    EXPECT_STREQ(judged(R"({"o": {"none": "x"}})").reject_reason, "missing-parameter");
}

TEST_F(ToolCall, RemovesNulCharactersThatJsonbCannotHold) {
    const ToolVerdict verdict = judge(
        "update_website_block", R"({"blockId": "a\u0000b", "patch": {"k\u0000": ["\u0000x"]}})");
    EXPECT_TRUE(verdict.accepted);
    EXPECT_EQ(dump_json(verdict.params), R"({"blockId":"ab","patch":{"k":["x"]}})");
}

TEST_F(ToolCall, IsRejectedWhenThePlanIsFull) {
    plan_.assign(kMaxPlanSteps - 1, {"s", "create_task", Json::object()});
    EXPECT_TRUE(judge("create_task", R"({"title": "x"})").accepted);
    plan_.push_back({"s", "create_task", Json::object()});
    expect_rejected("create_task", R"({"title": "x"})", "plan-full", "25 Schritte");
}

TEST_F(ToolCall, UndoDrinkIsPossibleOncePerPlan) {
    EXPECT_TRUE(judge("undo_drink", "{}").accepted);
    plan_.push_back({"s", "undo_drink", Json::object()});
    expect_rejected("undo_drink", "{}", "duplicate", "nur einmal");
    plan_.push_back({"s", "create_task", Json{{"title", "x"}}});
    EXPECT_TRUE(judge("create_task", R"({"title": "x"})").accepted);
}

TEST_F(ToolCall, ChecksArrayElementsWhereTheCatalogNamesTheirType) {
    const auto tool = parse_tool("t", "m", "d", "propose", R"([
        {"name": "a", "type": "array", "items": "integer", "required": true}])");
    offered_ = offer({*tool}, nullptr);
    EXPECT_TRUE(judge("t", R"({"a": [1, 2.0]})").accepted);
    expect_rejected("t", R"({"a": [1, 2.5]})", "wrong-type", "Element 2");
    expect_rejected("t", R"({"a": [1, "2"]})", "wrong-type", "Element 2");
}

TEST_F(ToolCall, QuotesGiantInputOnlyInPart) {
    const std::string giant(1'000'000, 'x');
    EXPECT_LT(judge(giant, "{}").message.size(), 1'000U);
    EXPECT_LT(
        judge("create_task", R"({"title": "x", "priority": ")" + giant + "\"}").message.size(),
        1'000U);
    Json many = {{"title", "x"}};
    for (int i = 0; i < 10'000; ++i) {
        many["extra" + std::to_string(i)] = i;
    }
    EXPECT_LT(judge("create_task", many.dump()).message.size(), 2'000U);
}

TEST_F(ToolCall, AnswersAreJsonWhateverTheModelWrote) {
    for (const std::string& odd : {std::string("\xff\xfe"), std::string("a\0b", 3),
                                   std::string("\"quoted\"\n"), std::string("\xed\xa0\x80")}) {
        const auto answer = parse_json(tool_answer(judge(odd, "{}")));
        ASSERT_TRUE(answer);
        EXPECT_EQ((*answer)["success"], false);
        EXPECT_TRUE((*answer)["message"].is_string());
    }
}

TEST_F(ToolCall, ToleratesOddValuesEverywhere) {
    for (const Tool* tool : offered_.tools()) {
        for (const Json& odd : testing::odd_values()) {
            judge(tool->name, dump_json(odd));
            Json arguments = Json::object();
            for (const ToolParameter& parameter : tool->parameters) {
                arguments[parameter.name] = odd;
            }
            const ToolVerdict verdict = judge(tool->name, dump_json(arguments));
            EXPECT_TRUE(parse_json(tool_answer(verdict)));
            EXPECT_EQ(verdict.accepted, std::string_view(verdict.reject_reason).empty());
        }
    }
}

}  // namespace
}  // namespace mana_ai::core
