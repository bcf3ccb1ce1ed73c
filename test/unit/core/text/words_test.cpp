#include "mana_ai/core/text/words.hpp"

#include <gtest/gtest.h>

#include <array>

namespace mana_ai::core {
namespace {

bool starts(std::string_view text, std::string_view phrase) {
    return contains_phrase(text, std::array{phrase}, PhraseEnd::Anywhere);
}

bool whole(std::string_view text, std::string_view phrase) {
    return contains_phrase(text, std::array{phrase}, PhraseEnd::AtEndOfAWord);
}

TEST(Words, PhraseBeginsAtTheStartOfAWord) {
    for (const char* text : {"news", "News", "NEWSletter", "die news", "(news)", "\nnews", "-news",
                             "„news“", "…news", "🙂news", "\xC2\xA0news", "\xFFnews", "«news»"}) {
        EXPECT_TRUE(starts(text, "news")) << text;
    }
    for (const char* text :
         {"", "new", "renews", "änews", "ßnews", "Önews", "e\xCC\x81news", "_news", "7news",
          "éànews", "новостиnews", "新news", "ªnews", "µnews"}) {
        EXPECT_FALSE(starts(text, "news")) << text;
    }
}

TEST(Words, WholePhraseEndsWithItsWord) {
    for (const char* text : {"deep dive", "ein Deep Dive.", "deep dive-Bericht", "deep dive, bitte",
                             "deep diver deep dive", "deep dive…"}) {
        EXPECT_TRUE(whole(text, "deep dive")) << text;
    }
    for (const char* text : {"deep diver", "deep diveä", "deep dive_x", "deep dive1", "xdeep dive",
                             "deepdive", "deep-dive", "deep", "deep ", "deep div"}) {
        EXPECT_FALSE(whole(text, "deep dive")) << text;
    }
}

TEST(Words, SpaceOfAPhraseIsAnyWhitespace) {
    for (const char* text : {"on this day", "On  This\tDay", "on\r\nthis\n\nday",
                             "on\xC2\xA0this\xE2\x80\x83"
                             "day"}) {
        EXPECT_TRUE(starts(text, "on this day")) << text;
    }
    EXPECT_FALSE(starts("onthis day", "on this day"));
    EXPECT_FALSE(starts("on\xE2\x80", "on this day"));
    EXPECT_FALSE(starts("on ", "on this day"));
}

TEST(Words, AreFoundInTimeAlsoInVeryLongText) {
    const std::string spaces = "on" + std::string(1 << 20, ' ');
    EXPECT_FALSE(starts(spaces, "on this day"));
    EXPECT_TRUE(starts(std::string(1 << 20, 'x') + " news", "news"));
    EXPECT_FALSE(starts(std::string(1 << 20, '\xFF'), "news"));
}

TEST(Words, TrimmedTakesWhitespaceAndControlCharactersOfAnyScript) {
    EXPECT_EQ(trimmed(" \t\r\n a b \x01\x7F"), "a b");
    EXPECT_EQ(trimmed("\xC2\xA0\xE3\x80\x80ä\xE2\x80\xA8\xC2\x85"), "ä");
    EXPECT_EQ(trimmed(std::string_view("\0x\0", 3)), "x");
    EXPECT_EQ(trimmed(""), "");
    EXPECT_EQ(trimmed(" \xC2\xA0 "), "");
    EXPECT_EQ(trimmed("\xA0 x \xA0"), "\xA0 x \xA0");  // no UTF-8, so no space
    EXPECT_EQ(trimmed("x\xE2\x80"), "x\xE2\x80");
}

TEST(Words, OneLineHasSingleSpaces) {
    EXPECT_EQ(one_line("\n a\r\n\tb \x7F c\n"), "a b c");
    EXPECT_EQ(one_line(" \n"), "");
    EXPECT_EQ(one_line("Käse"), "Käse");
}

}  // namespace
}  // namespace mana_ai::core
