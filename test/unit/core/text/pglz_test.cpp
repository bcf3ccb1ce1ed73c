#include "mana_ai/core/text/pglz.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <string>

namespace mana_ai::core {
namespace {

using namespace std::string_literals;

// Buffers of exactly the right size, so that the sanitizer sees each byte beyond.
std::optional<std::string> expand(const std::string& stream, size_t size) {
    const std::unique_ptr<char[]> from(new char[stream.size()]);
    std::copy(stream.begin(), stream.end(), from.get());
    const std::unique_ptr<char[]> to(new char[size]);
    if (!expand_pglz({from.get(), stream.size()}, to.get(), size))
        return std::nullopt;
    return std::string(to.get(), size);
}

TEST(Pglz, BytesStandForThemselves) {
    EXPECT_EQ(expand("\0abcdefgh\0i"s, 9), "abcdefghi");
    EXPECT_EQ(expand("\0abcdefghijklmnop"s.insert(9, 1, '\0'), 16), "abcdefghijklmnop");
}

TEST(Pglz, AMatchCopiesWhatIsBefore) {
    EXPECT_EQ(expand("\x08"
                     "abc\x00\x03"s,
                     6),
              "abcabc");
    EXPECT_EQ(expand("\x02"
                     "a\x05\x01"s,
                     9),
              "aaaaaaaaa")
        << "what it writes may be part of it";
    EXPECT_EQ(expand("\x02"
                     "a\x0f\x01\x02"s,
                     21),
              std::string(21, 'a'))
        << "a third byte of length";
    const std::string text = "0123456789abcdefghijklmnopqrstuv";
    std::string stream;
    for (size_t at = 0; at < text.size(); at += 8)
        stream += '\0' + text.substr(at, 8);
    EXPECT_EQ(expand(stream + "\x01\x0f\x20\x30"s, 98), text + text + text + "01")
        << "longer than its distance";
    EXPECT_EQ(expand(stream + "\x01\x02\x20z"s, 38), text + "01234z") << "what follows overwrites";
}

TEST(Pglz, ABrokenStreamIsRefused) {
    EXPECT_FALSE(expand("\0abc"s, 2)) << "too long";
    EXPECT_FALSE(expand("\0abc"s, 4)) << "too short";
    EXPECT_FALSE(expand(""s, 1)) << "empty";
    EXPECT_FALSE(
        expand("\x08"
               "abc\x00"s,
               6))
        << "half a match";
    EXPECT_FALSE(
        expand("\x02"
               "a\x0f\x01"s,
               21))
        << "the third byte is missing";
    EXPECT_FALSE(
        expand("\x08"
               "abc\x00\x04"s,
               6))
        << "before the beginning";
    EXPECT_FALSE(
        expand("\x08"
               "abc\x00\x00"s,
               6))
        << "from itself";
    EXPECT_FALSE(
        expand("\x08"
               "abc\x03\x03"s,
               6))
        << "beyond the end";
}

// Far from the end of a stream fewer things are looked at.
TEST(Pglz, ALongStreamIsReadToItsEnd) {
    const std::string long_match = "\x0f\x01\x00"s;  // 18 bytes
    for (size_t groups = 1; groups < 12; groups++) {
        std::string stream = "\x00"s + "aaaaaaaa";
        for (size_t i = 0; i < groups; i++) {
            stream += '\x7f';
            for (int k = 0; k < 7; k++)
                stream += long_match;
            stream += 'a';
        }
        EXPECT_EQ(expand(stream, 8 + groups * 127), std::string(8 + groups * 127, 'a'));
    }
}

TEST(Pglz, ABrokenStreamIsRefusedFarFromItsEnd) {
    std::string rest;
    for (int i = 0; i < 10; i++)
        rest += "\0aaaaaaaa"s;
    const auto is_refused = [&rest](const std::string& begin, size_t size) {
        return !expand(begin + rest, size);
    };
    EXPECT_TRUE(
        is_refused("\x02"
                   "a\x00\x02zzzzzz"s,
                   90))
        << "before the beginning";
    EXPECT_TRUE(
        is_refused("\x02"
                   "a\x00\x00zzzzzz"s,
                   90))
        << "from itself";
    EXPECT_TRUE(
        is_refused("\x02"
                   "a\x0f\x01\xffzzzzzz"s,
                   100))
        << "a match beyond the end";
    EXPECT_TRUE(is_refused("\0aaaaaaaa"s, 5)) << "bytes beyond the end";
    EXPECT_FALSE(is_refused("\0aaaaaaaa"s, 88));
}

}  // namespace
}  // namespace mana_ai::core
