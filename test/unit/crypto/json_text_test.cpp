#include "mana_ai/crypto/json_text.hpp"

#include <gtest/gtest.h>

#include <string>

#include "mana_ai/core/text/json.hpp"

namespace mana_ai::crypto {
namespace {

std::optional<std::string> string_in(std::string_view json) {
    const auto decoded = decode_json_string(json);
    return decoded ? std::optional(std::string(decoded->view())) : std::nullopt;
}

TEST(JsonText, AcceptsWhatTheParserAccepts) {
    for (const char* text : {"null",
                             "true",
                             "false",
                             " 7 ",
                             "0",
                             "-0",
                             "-0.5e+10",
                             "1E5",
                             "1e-5",
                             "0.0e0",
                             "123456789012345678901234567890",
                             "\"\"",
                             "\"x\"",
                             "\"\\\"\\\\\\/\\b\\f\\n\\r\\t\\u00e9\"",
                             "\"\\ud83d\\ude00\"",
                             "\"\\u0000\"",
                             "\"ü😀\"",
                             "[]",
                             "{}",
                             "[ ]",
                             "{ }",
                             "[1,2]",
                             "[[],{}]",
                             R"({"a":1,"b":[{"c":null}],"a":"again"})",
                             "\t[\r\n{ \"k\" : [ ] } , 1 ]\n",
                             R"({"":{"":{"":[]}}})"}) {
        EXPECT_TRUE(is_json(text)) << text;
        EXPECT_TRUE(core::parse_json(text)) << text;
    }
}

TEST(JsonText, RefusesWhatTheParserRefuses) {
    for (const char* text : {"",
                             " ",
                             "{",
                             "[",
                             "]",
                             "}",
                             "[1,]",
                             "[,1]",
                             "[1 2]",
                             "[1]]",
                             "[1}",
                             "{]",
                             "{\"a\"}",
                             "{\"a\":}",
                             "{\"a\":1,}",
                             "{,}",
                             "{1:2}",
                             "{\"a\" 1}",
                             "{\"a\":1 \"b\":2}",
                             "nul",
                             "nulll",
                             "True",
                             "1 2",
                             "'a'",
                             "{} x",
                             "NaN",
                             "Infinity",
                             "-",
                             "+1",
                             "01",
                             "-01",
                             "1.",
                             ".5",
                             "1.e5",
                             "1e",
                             "1e+",
                             "0x10",
                             "1e999",
                             "-1e999",
                             "\"",
                             "\"a",
                             "\"\\\"",
                             "\"\\",
                             "\"\\x\"",
                             "\"\\u\"",
                             "\"\\u12\"",
                             "\"\\u12g4\"",
                             "\"\\u-123\"",
                             "\"\\u 123\"",
                             "\"\\ud800\"",
                             "\"\\udc00\"",
                             "\"\\ud800\\u0041\"",
                             "\"\\ud800x\"",
                             "\"\\ud800\\n\"",
                             "\"\x01\"",
                             "\"a\nb\"",
                             "\"\xff\"",
                             "\"\x80\"",
                             "\"\xc3\"",
                             "\"\xc0\xaf\"",
                             "\"\xe0\x80\xaf\"",
                             "\"\xed\xa0\x80\"",
                             "\"\xf0\x80\x80\x80\"",
                             "\"\xf4\x90\x80\x80\"",
                             "\"\xf5\x80\x80\x80\"",
                             "\xff\xfe",
                             "// c\n1",
                             "[1/**/]",
                             "\x0b"
                             "1",
                             "\xc2\xa0"
                             "1"}) {
        EXPECT_FALSE(is_json(text)) << text;
        EXPECT_FALSE(core::parse_json(text)) << text;
    }
    EXPECT_FALSE(is_json(std::string_view("1\0", 2)));
    EXPECT_FALSE(is_json(std::string_view("\0", 1)));
    EXPECT_FALSE(is_json(std::string_view("\"\0\"", 3)));
    EXPECT_FALSE(is_json(std::string_view("[1]\0", 4)));
}

TEST(JsonText, CapsTheDepthWhereTheParserDoes) {
    const auto nested = [](std::size_t depth, const char* open, const char* close) {
        std::string text;
        for (std::size_t i = 0; i < depth; ++i) {
            text += open;
        }
        text += "1";
        for (std::size_t i = 0; i < depth; ++i) {
            text += close;
        }
        return text;
    };
    for (const std::size_t depth : {std::size_t{1}, core::kMaxJsonDepth, core::kMaxJsonDepth + 1}) {
        EXPECT_EQ(is_json(nested(depth, "[", "]")), depth <= core::kMaxJsonDepth) << depth;
        EXPECT_EQ(is_json(nested(depth, "{\"a\":", "}")), depth <= core::kMaxJsonDepth) << depth;
        EXPECT_EQ(core::parse_json(nested(depth, "[", "]")).has_value(),
                  depth <= core::kMaxJsonDepth);
    }
    EXPECT_FALSE(is_json(std::string(5'000'000, '[')));
    EXPECT_TRUE(is_json("[" + std::string(1000, ' ') + "[],[],[]]"));
}

TEST(JsonText, NeverLooksBeyondTheEnd) {
    const std::string text = R"({"a":[1.5e3,"x\u00e9\ud83d\ude00ü",true,false,null]})";
    for (std::size_t size = 0; size < text.size(); ++size) {
        // A copy of exactly this size, so that the sanitizer would see it.
        const auto part = SecretBytes::copy_of(std::string_view(text).substr(0, size));
        EXPECT_FALSE(is_json(part.view())) << size;
    }
    EXPECT_TRUE(is_json(text));
}

TEST(DecodeJsonString, GivesTheTextThatAStringStandsFor) {
    EXPECT_EQ(string_in("\"\""), "");
    EXPECT_EQ(string_in(" \"Privat\" "), "Privat");
    EXPECT_EQ(string_in(R"("a\"\\\/\b\f\n\r\t")"), "a\"\\/\b\f\n\r\t");
    EXPECT_EQ(string_in(R"("\u0041\u00fc\u20AC\ud83d\ude00")"), "Aü€😀");
    EXPECT_EQ(string_in("\"ü€😀\""), "ü€😀");
}

TEST(DecodeJsonString, DropsWhatPostgresCannotHold) {
    EXPECT_EQ(string_in(R"("a\u0000b")"), "ab");
}

TEST(DecodeJsonString, RefusesOtherValuesAndTexts) {
    for (const char* text : {"", "7", "null", "[\"a\"]", "{}", "\"a", "a\"", "\"a\"b",
                             "\"a\" \"b\"", "\"\\ud800\"", "\"\xff\""}) {
        EXPECT_FALSE(string_in(text)) << text;
    }
}

}  // namespace
}  // namespace mana_ai::crypto
