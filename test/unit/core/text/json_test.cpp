#include "mana_ai/core/text/json.hpp"
#include "mana_ai/core/text/utf8.hpp"

#include <gtest/gtest.h>

#include <string>

namespace mana_ai::core {
namespace {

TEST(ParseJson, ReadsDocuments) {
    EXPECT_EQ(parse_json(R"({"a":[1,2.5,"x",null,true]})")->at("a").size(), 5U);
    EXPECT_EQ(*parse_json(" 7 "), 7);
    EXPECT_TRUE(parse_json("null")->is_null());
}

TEST(ParseJson, RefusesWhatIsNoJson) {
    for (const char* text : {"", " ", "{", "[1,]", "{\"a\":}", "nul", "1 2", "'a'", "{} x", "NaN",
                             "\"\\ud800\"", "\"\xff\"", "\xff\xfe", "// c\n1", "1e999"}) {
        EXPECT_FALSE(parse_json(text)) << text;
    }
    EXPECT_FALSE(parse_json(std::string_view("1\0", 2)));
    EXPECT_FALSE(parse_json(std::string_view("1\0garbage", 9)));
    EXPECT_FALSE(parse_json(std::string_view("\"\0\"", 3)));
}

TEST(ParseJson, CapsTheDepth) {
    const auto nested = [](std::size_t depth) {
        return std::string(depth, '[') + std::string(depth, ']');
    };
    EXPECT_TRUE(parse_json(nested(kMaxJsonDepth)));
    EXPECT_FALSE(parse_json(nested(kMaxJsonDepth + 1)));
    EXPECT_FALSE(parse_json(nested(5'000'000)));
    EXPECT_FALSE(parse_json(std::string(5'000'000, '[')));
}

TEST(ParseJson, CountsNoBracketsInsideStrings) {
    EXPECT_TRUE(parse_json('"' + std::string(500, '[') + '"'));
    EXPECT_TRUE(parse_json(R"(["\"[[[", "\\"])"));
    EXPECT_FALSE(parse_json("\"\\\"" + std::string(500, '[')));
    // Siblings are not nested.
    std::string siblings = "[";
    for (int i = 0; i < 1000; ++i) {
        siblings += "[],{},";
    }
    EXPECT_TRUE(parse_json(siblings + "0]"));
}

TEST(DumpJson, ReplacesInvalidUtf8) {
    EXPECT_EQ(dump_json(Json("a\xff"
                             "b")),
              "\"a\xEF\xBF\xBD"
              "b\"");
    EXPECT_EQ(dump_json(Json{{"a", 1}}), R"({"a":1})");
    EXPECT_EQ(dump_json(Json("ä")), "\"\xC3\xA4\"");
}

TEST(RemoveNul, CleansStringsAndKeysAtAnyDepth) {
    Json value = *parse_json(R"({"a\u0000b":["x\u0000",{"c":"\u0000"}],"d":1})");
    remove_nul(value);
    EXPECT_EQ(dump_json(value), R"({"ab":["x",{"c":""}],"d":1})");
}

TEST(RepairUtf8, KeepsValidTextAndReplacesTheRest) {
    EXPECT_EQ(repair_utf8("Grüße 👋 €"), "Grüße 👋 €");
    EXPECT_EQ(repair_utf8("\xC3"), "\xEF\xBF\xBD");
    EXPECT_EQ(repair_utf8("\xC0\xAF"), "\xEF\xBF\xBD\xEF\xBF\xBD");                  // overlong
    EXPECT_EQ(repair_utf8("\xED\xA0\x80"), "\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD");  // surrogate
    EXPECT_EQ(repair_utf8(std::string_view("a\0b", 3)), "ab");
    // Beyond U+10FFFF.
    EXPECT_EQ(repair_utf8("\xF4\x90\x80\x80").size(), 12U);
}

TEST(CutUtf8, CountsCodePoints) {
    EXPECT_EQ(cut_utf8("äöü", 3), "äöü");
    EXPECT_EQ(cut_utf8("äöüß", 3), "äö…");
    EXPECT_EQ(cut_utf8("👋👋👋", 2), "👋…");
    EXPECT_EQ(cut_utf8("ab", 1), "…");
    EXPECT_EQ(cut_utf8("ab", 0), "");
    EXPECT_EQ(cut_utf8("", 5), "");
}

TEST(CutUtf8, AlwaysGivesValidUtf8) {
    EXPECT_EQ(cut_utf8("a\xC3", 5), "a\xEF\xBF\xBD");
    EXPECT_EQ(cut_utf8("a\xFF\xFF\xFF", 3), "a\xEF\xBF\xBD…");
    EXPECT_EQ(cut_utf8("\xFFä\xFFz", 3), "\xEF\xBF\xBDä…");
    EXPECT_EQ(cut_utf8("\xFFä\xFFz", 4), "\xEF\xBF\xBDä\xEF\xBF\xBDz");
    EXPECT_EQ(cut_utf8("ab\xE2\x80", 3), "ab…");
}

TEST(StringOr, FallsBackOnAnythingButAString) {
    const Json object = {{"text", "x"}, {"number", 1}, {"null", nullptr}};
    EXPECT_EQ(string_or(object, "text", "-"), "x");
    EXPECT_EQ(string_or(object, "number", "-"), "-");
    EXPECT_EQ(string_or(object, "null", "-"), "-");
    EXPECT_EQ(string_or(object, "missing", "-"), "-");
    EXPECT_EQ(string_or(Json::array(), "text", "-"), "-");
    EXPECT_EQ(string_or(Json(), "text", "-"), "-");
}

}  // namespace
TEST(Json, QuotesTextsAsTheSerializerDoes) {
    std::string every_byte_below_0x80;
    for (char c = 0; c < 0x7f; ++c) {
        every_byte_below_0x80 += c;
    }
    for (const std::string& text :
         {std::string(), std::string("plain"), every_byte_below_0x80, std::string("ä€😀\x7f"),
          std::string("\"\\/\"", 4), std::string(1 << 20, '"')}) {
        EXPECT_EQ(json_string(text), dump_json(Json(text)));
    }
}

TEST(Json, FindsWhatNeedsAnEscapeAtEveryPlace) {
    for (int byte = 0; byte < 0x80; ++byte) {
        for (std::size_t length = 1; length <= 17; ++length) {
            for (std::size_t at = 0; at < length; ++at) {
                std::string text(length, '~');
                text[at] = static_cast<char>(byte);
                ASSERT_EQ(json_string(text), dump_json(Json(text))) << byte << " at " << at;
            }
        }
    }
}

TEST(Json, QuotedTextsAreAlwaysValid) {
    for (const std::string& text :
         {std::string("\xff"), std::string("a\xc3"), std::string("\xed\xa0\x80z"),
          std::string("\xf0\x9f\x98"), std::string("\0\x80\0", 3)}) {
        const auto parsed = parse_json(json_string(text));
        ASSERT_TRUE(parsed && parsed->is_string());
        EXPECT_NE(parsed->get_ref<const std::string&>().find("\ufffd"), std::string::npos);
    }
}

}  // namespace mana_ai::core
