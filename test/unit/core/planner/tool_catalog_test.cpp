#include "mana_ai/core/planner/tool_catalog.hpp"

#include <gtest/gtest.h>

#include <functional>

#include "../builtin_tools.hpp"

namespace mana_ai::core {
namespace {

std::vector<std::string> names_of(const OfferedTools& offered) {
    std::vector<std::string> names;
    for (const Tool* tool : offered.tools()) {
        names.push_back(tool->name);
    }
    return names;
}

TEST(BuiltinTools, AreThoseOfTheSpecInItsOrder) {
    const Json expected = Json::parse(testing::read_file(MANA_AI_TEST_DATA "/tools.json"));
    const std::vector<std::string> texts = testing::builtin_tool_literals();
    ASSERT_EQ(texts.size(), 5 * expected.size());
    for (std::size_t i = 0; i < expected.size(); ++i) {
        Json parameters = Json::parse(texts[5 * i + 4]);
        for (Json& parameter : parameters) {
            EXPECT_FALSE(parameter["description"].get<std::string>().empty()) << texts[5 * i];
            parameter.erase("description");
        }
        const Json tool = {{"name", texts[5 * i]},
                           {"module", texts[5 * i + 1]},
                           {"default_policy", texts[5 * i + 2]},
                           {"parameters", parameters}};
        EXPECT_EQ(tool, expected[i]);
        EXPECT_FALSE(texts[5 * i + 3].empty());
    }
    EXPECT_EQ(testing::builtin_tools().size(), 84U);
}

TEST(ToolCatalog, OffersProposingToolsOnly) {
    ToolCatalog catalog(testing::builtin_tools());
    const OfferedTools offered = catalog.offer(nullptr);
    EXPECT_NE(offered.find("create_task"), nullptr);
    EXPECT_EQ(offered.find("list_tasks"), nullptr);
    EXPECT_EQ(offered.find("log_drink"), nullptr);
    EXPECT_EQ(offered.find("no_such_tool"), nullptr);
    for (const Tool* tool : offered.tools()) {
        EXPECT_EQ(tool->default_policy, Decision::Propose);
    }
}

TEST(ToolCatalog, NeverOffersReadingToolsWhateverThePolicySays) {
    const Policy policy = parse_policy(
        Json::parse(R"({"tools": {"list_tasks": "propose"}, "defaultForAi": "auto"})"));
    const OfferedTools offered = offer(testing::builtin_tools(), &policy);
    EXPECT_EQ(offered.find("list_tasks"), nullptr);
    EXPECT_NE(offered.find("create_task"), nullptr);
}

TEST(ToolCatalog, LeavesOutWhatThePolicyDenies) {
    const Policy policy = parse_policy(Json::parse(R"({
        "tools": {"create_note": "propose", "create_place": "deny"},
        "defaultsByModule": {"notes": "deny"}, "defaultForAi": "propose"})"));
    const OfferedTools offered = offer(testing::builtin_tools(), &policy);
    EXPECT_NE(offered.find("create_note"), nullptr);
    EXPECT_EQ(offered.find("update_note"), nullptr);
    EXPECT_EQ(offered.find("create_place"), nullptr);
    EXPECT_NE(offered.find("visit_place"), nullptr);
}

TEST(ToolCatalog, OffersNothingWhenAllIsDenied) {
    const Policy policy = parse_policy(Json{{"defaultForAi", "deny"}});
    const OfferedTools offered = offer(testing::builtin_tools(), &policy);
    EXPECT_TRUE(offered.tools().empty());
    EXPECT_EQ(offered.tools_json(), "");
    EXPECT_EQ(OfferedTools().tools_json(), "");
    EXPECT_EQ(OfferedTools().find("create_task"), nullptr);
}

TEST(ToolCatalog, SharesOneSerializationBetweenPoliciesThatDenyTheSame) {
    ToolCatalog catalog(testing::builtin_tools());
    const Policy one = parse_policy(Json::parse(R"({"tools": {"create_task": "deny"}})"));
    const Policy same =
        parse_policy(Json::parse(R"({"tools": {"create_task": "deny", "create_note": "auto"}})"));
    EXPECT_EQ(catalog.offer(&one).tools_json().data(), catalog.offer(&same).tools_json().data());
    EXPECT_NE(catalog.offer(&one).tools_json().data(), catalog.offer(nullptr).tools_json().data());
}

TEST(ToolCatalog, OffersOutliveTheirCatalogAndItsCache) {
    OfferedTools kept;
    {
        ToolCatalog catalog(testing::builtin_tools());
        kept = catalog.offer(nullptr);
        for (int i = 0; i < 600; ++i) {  // many different sets, more than are kept
            Policy policy;
            for (std::size_t bit = 0; bit < 10; ++bit) {
                policy.tools[catalog.offer(nullptr).tools()[bit]->name] =
                    (i >> bit) % 2 == 1 ? Decision::Deny : Decision::Propose;
            }
            EXPECT_FALSE(catalog.offer(&policy).tools().empty());
        }
    }
    ASSERT_NE(kept.find("create_task"), nullptr);
    EXPECT_EQ(kept.find("create_task")->module, "todo");
    EXPECT_EQ(Json::parse(kept.tools_json()).size(), kept.tools().size());
}

TEST(ToolCatalog, WritesToolsInTheWireFormat) {
    const auto tool = parse_tool("t", "m", "Tut \"etwas\".", "propose", R"([
        {"name": "z", "type": "string", "required": true, "enum": ["b", "a"], "description": "Z"},
        {"name": "a", "type": "number", "required": false, "description": "A"}])");
    ASSERT_TRUE(tool);
    EXPECT_EQ(offer({*tool}, nullptr).tools_json(),
              R"([{"type":"function","function":{"name":"t","description":"Tut \"etwas\".",)"
              R"("parameters":{"type":"object","properties":{)"
              R"("z":{"type":"string","description":"Z","enum":["b","a"]},)"
              R"("a":{"type":"number","description":"A"}},"required":["z"]}}}])");
}

TEST(ToolCatalog, NamesAnElementTypeForArrays) {
    const auto tool = parse_tool("t", "m", "d", "propose", R"([
        {"name": "a", "type": "array", "description": "A"},
        {"name": "b", "type": "array", "items": "string", "description": "B"}])");
    ASSERT_TRUE(tool);
    const Json tools = Json::parse(offer({*tool}, nullptr).tools_json());
    const Json& properties = tools[0]["function"]["parameters"]["properties"];
    EXPECT_EQ(properties["a"]["items"]["type"], "object");
    EXPECT_EQ(properties["b"]["items"]["type"], "string");
    EXPECT_EQ(tools[0]["function"]["parameters"]["required"], Json::array());
}

// Gemini refuses an object without properties, others a function without an object.
TEST(ToolCatalog, WritesAPlaceholderForToolsWithoutParameters) {
    const auto tool = parse_tool("undo_drink", "drink", "d", "propose", "[]");
    ASSERT_TRUE(tool);
    const Json parameters =
        Json::parse(offer({*tool}, nullptr).tools_json())[0]["function"]["parameters"];
    EXPECT_EQ(parameters["type"], "object");
    EXPECT_EQ(parameters["required"], Json::array());
    ASSERT_EQ(parameters["properties"].size(), 1U);
    EXPECT_EQ(parameters["properties"][kNoParameter]["type"], "string");
}

TEST(ToolCatalog, SaysWhatObjectsHave) {
    const auto tool = parse_tool("t", "m", "d", "propose", R"([
        {"name": "o", "type": "object", "description": "O", "properties": [
            {"name": "x", "type": "string", "enum": ["a"]}, {"name": "y", "type": "number", "required": true}]},
        {"name": "l", "type": "array", "description": "L", "properties": [
            {"name": "z", "type": "array", "items": "object", "properties": [{"name": "v", "type": "boolean"}]}]}])");
    ASSERT_TRUE(tool);
    const Json properties = Json::parse(
        offer({*tool}, nullptr).tools_json())[0]["function"]["parameters"]["properties"];
    EXPECT_EQ(properties["o"], Json::parse(R"({"type": "object", "description": "O",
        "properties": {"x": {"type": "string", "enum": ["a"]}, "y": {"type": "number"}}, "required": ["y"]})"));
    EXPECT_EQ(properties["l"], Json::parse(R"({"type": "array", "description": "L",
        "items": {"type": "object", "properties": {"z": {"type": "array",
            "items": {"type": "object", "properties": {"v": {"type": "boolean"}}, "required": []}}}, "required": []}})"));
}

// Gemini refuses whole requests for one object that does not say what it has, for one array that
// does not say of what, and for one empty text in a list of values.
void expect_that_gemini_takes(const Json& schema, const std::string& path) {
    if (schema["type"] == "array") {
        ASSERT_TRUE(schema.contains("items")) << path;
        expect_that_gemini_takes(schema["items"], path + "[]");
    }
    if (schema["type"] == "object") {
        EXPECT_FALSE(schema.value("properties", Json::object()).empty()) << path;
        for (const auto& [name, property] : schema["properties"].items()) {
            expect_that_gemini_takes(property, path + "." + name);
        }
    }
    if (schema.contains("enum")) {
        EXPECT_FALSE(schema["enum"].empty()) << path;
        for (const Json& value : schema["enum"]) {
            EXPECT_NE(value, "") << path;
        }
    }
}

TEST(BuiltinTools, HaveSchemasThatProvidersTake) {
    for (const Json& tool : Json::parse(offer(testing::builtin_tools(), nullptr).tools_json())) {
        expect_that_gemini_takes(tool["function"]["parameters"], tool["function"]["name"]);
    }
    for (const Tool& tool : testing::builtin_tools()) {
        for (const ToolParameter& parameter : tool.parameters) {
            EXPECT_EQ(is_of_objects(parameter), !parameter.properties.empty())
                << tool.name << "." << parameter.name << " says what its objects have";
        }
    }
}

// Those of an operator may say less: that must not cost all others their plans.
TEST(ToolCatalog, WritesSchemasThatProvidersTakeOfToolsThatSayLittle) {
    const auto tool = parse_tool("t", "m", "d", "propose", R"([
        {"name": "o", "type": "object", "required": true, "description": "O"},
        {"name": "p", "type": "object", "properties": []},
        {"name": "l", "type": "array"},
        {"name": "k", "type": "array", "items": "object"},
        {"name": "m", "type": "array", "items": "array"},
        {"name": "e", "type": "string", "enum": ["", "a"]},
        {"name": "f", "type": "string", "enum": [""]},
        {"name": "q", "type": "object", "properties": [
            {"name": "o", "type": "object"}, {"name": "l", "type": "array"},
            {"name": "m", "type": "array", "items": "array"}]}])");
    ASSERT_TRUE(tool);
    const Json parameters =
        Json::parse(offer({*tool}, nullptr).tools_json())[0]["function"]["parameters"];
    expect_that_gemini_takes(parameters, "t");
    EXPECT_EQ(parameters["required"], Json::parse(R"(["o"])"));
    EXPECT_EQ(parameters["properties"]["e"]["enum"], Json::parse(R"(["a"])"));
    EXPECT_FALSE(parameters["properties"]["f"].contains("enum"));
}

TEST(ToolCatalog, KeepsTheFirstOfToolsWithTheSameName) {
    const Tool first = *parse_tool("t", "one", "d", "propose", "[]");
    const Tool second = *parse_tool("t", "two", "d", "propose", "[]");
    const OfferedTools offered = offer({first, second}, nullptr);
    EXPECT_EQ(names_of(offered), std::vector<std::string>{"t"});
    EXPECT_EQ(offered.find("t")->module, "one");
}

TEST(ToolCatalog, SurvivesInvalidUtf8InDescriptions) {
    const auto tool = parse_tool("t", "m", "kaputt \xff", "propose", "[]");
    ASSERT_TRUE(tool);
    EXPECT_TRUE(parse_json(offer({*tool}, nullptr).tools_json()));
}

TEST(ParseTool, RefusesNamesThatProvidersRefuse) {
    for (const std::string& name : {std::string(), std::string("a b"), std::string("ä"),
                                    std::string("a.b"), std::string(65, 'a'), std::string("a\0", 2),
                                    std::string("3d_print"), std::string("-a")}) {
        EXPECT_FALSE(parse_tool(name, "m", "d", "propose", "[]")) << name;
    }
    EXPECT_TRUE(parse_tool(std::string(64, 'a'), "m", "d", "propose", "[]"));
    EXPECT_TRUE(parse_tool("_3-d", "m", "d", "propose", "[]"));
    EXPECT_TRUE(parse_tool("t", "m", "d", "propose", R"([{"name": "3d", "type": "string"}])"));
}

TEST(ParseTool, RefusesWhatIsNoToolRow) {
    EXPECT_FALSE(parse_tool("t", "m", "d", "sometimes", "[]"));
    for (
        const char* parameters :
        {"",
         "{",
         "{}",
         "null",
         "[1]",
         "[{}]",
         R"([{"name": "a"}])",
         R"([{"name": "a", "type": "text"}])",
         R"([{"name": 1, "type": "string"}])",
         R"([{"name": "a b", "type": "string"}])",
         R"([{"name": "a", "type": "string", "required": "yes"}])",
         R"([{"name": "a", "type": "string", "enum": []}])",
         R"([{"name": "a", "type": "string", "enum": "x"}])",
         R"([{"name": "a", "type": "string", "enum": ["x", 1]}])",
         R"([{"name": "a", "type": "number", "enum": ["1"]}])",
         R"([{"name": "a", "type": "string", "items": "string"}])",
         R"([{"name": "a", "type": "array", "items": "thing"}])",
         R"([{"name": "a", "type": "string", "properties": []}])",
         R"([{"name": "a", "type": "array", "items": "string", "properties": []}])",
         R"([{"name": "a", "type": "object", "properties": {}}])",
         R"([{"name": "a", "type": "object", "properties": [{"name": "b"}]}])",
         R"([{"name": "a", "type": "object", "properties": [{"name": "b", "type": "string"}, {"name": "b", "type": "string"}]}])",
         R"([{"name": "a", "type": "string", "minimum": 1}])",
         R"([{"name": "a", "type": "number", "maximum": "5"}])",
         R"([{"name": "a", "type": "number", "maxLength": 5}])",
         R"([{"name": "a", "type": "string", "minLength": -1}])",
         R"([{"name": "a", "type": "string", "maxLength": 1e30}])",
         R"([{"name": "a", "type": "string"}, {"name": "a", "type": "number"}])"}) {
        EXPECT_FALSE(parse_tool("t", "m", "d", "propose", parameters)) << parameters;
    }
}

}  // namespace
}  // namespace mana_ai::core
