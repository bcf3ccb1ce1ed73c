#include "mana_ai/crypto/base64.hpp"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "../../client/client_side.hpp"

namespace mana_ai::crypto {
namespace {

std::optional<std::string> decoded(std::string_view text) {
    const auto size = base64_decoded_size(text);
    if (!size) {
        return std::nullopt;
    }
    std::vector<std::uint8_t> bytes(*size);
    if (!decode_base64(text, bytes)) {
        return std::nullopt;
    }
    return std::string(bytes.begin(), bytes.end());
}

TEST(Base64, DecodesTheExamplesOfTheRfc) {
    EXPECT_EQ(decoded(""), "");
    EXPECT_EQ(decoded("Zg=="), "f");
    EXPECT_EQ(decoded("Zm8="), "fo");
    EXPECT_EQ(decoded("Zm9v"), "foo");
    EXPECT_EQ(decoded("Zm9vYg=="), "foob");
    EXPECT_EQ(decoded("Zm9vYmE="), "fooba");
    EXPECT_EQ(decoded("Zm9vYmFy"), "foobar");
    EXPECT_EQ(decoded("+/+/"), "\xfb\xff\xbf");
}

TEST(Base64, DecodesWhateverOpenSslEncodes) {
    client::Bytes bytes;
    for (int i = 0; i < 300; ++i) {
        EXPECT_EQ(decoded(client::encode_base64(bytes)), std::string(bytes.begin(), bytes.end()));
        bytes.push_back(static_cast<std::uint8_t>(i * 167));
    }
}

TEST(Base64, RefusesEverythingElse) {
    for (const char* text : {"Z",          "Zm",       "Zm8",     "Zm9vY",    "Zg=",
                             "Zg",         "=",        "==",      "====",     "Z===",
                             "=Zg=",       "Zg==Zg==", "Zm=v",    "Zm9v====", "Zm9v\n",
                             "Zm9v\nZm9v", " Zm9v",    "Zm 9v",   "Zm9v    ", "-_-_",
                             "Zm9%",       "Zm9\xc3",  "Z\xf6==", "Zm\xff=",  "\xff\xff\xff\xff"}) {
        EXPECT_FALSE(decoded(text)) << text;
    }
    EXPECT_FALSE(decoded(std::string_view("Zm9\0", 4)));
}

TEST(Base64, RefusesBitsThatStandForNothing) {
    EXPECT_FALSE(decoded("Zh=="));
    EXPECT_FALSE(decoded("Zm9="));
}

TEST(Base64, WritesOnlyIntoABufferOfTheRightSize) {
    std::vector<std::uint8_t> bytes(2);
    EXPECT_FALSE(decode_base64("Zm9v", bytes));
    EXPECT_FALSE(decode_base64("Zg==", bytes));
    EXPECT_TRUE(decode_base64("Zm8=", bytes));
}

std::optional<std::string> url_decoded(std::string_view text) {
    const auto bytes = decode_base64url(text);
    if (!bytes) {
        return std::nullopt;
    }
    return std::string(bytes->begin(), bytes->end());
}

TEST(Base64Url, DecodesAndEncodesWithoutPadding) {
    const std::vector<std::pair<std::string, std::string>> cases = {
        {"", ""},        {"f", "Zg"},        {"fo", "Zm8"},
        {"foo", "Zm9v"}, {"foob", "Zm9vYg"}, {"\xFB\xFF\xBF", "-_-_"}};
    for (const auto& [plain, text] : cases) {
        EXPECT_EQ(url_decoded(text), plain);
        EXPECT_EQ(
            encode_base64url({reinterpret_cast<const std::uint8_t*>(plain.data()), plain.size()}),
            text);
    }
}

TEST(Base64Url, RefusesEverythingElse) {
    for (const char* text : {"Zg==", "Zm8=", "+/+/", "Z", "Zm9vY", "Zh", "Zm9", "Zm 9", "Zg\n"}) {
        EXPECT_EQ(url_decoded(text), std::nullopt) << text;
    }
}

}  // namespace
}  // namespace mana_ai::crypto
