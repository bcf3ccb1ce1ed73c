#include "mana_ai/crypto/encrypted_value.hpp"

#include <gtest/gtest.h>
#include <openssl/err.h>

#include <string>

#include "../../client/client_side.hpp"
#include "grant_vectors.hpp"
#include "mana_ai/crypto/base64.hpp"

namespace mana_ai::crypto {
namespace {

const client::Bytes kKey(32, 0x42);

// The plaintext, or the audit's reason.
std::string opened(std::string_view text, const MissionDataKey& key) {
    const auto result = open_value(text, key);
    EXPECT_EQ(ERR_peek_error(), 0u) << "left in OpenSSL's error queue";
    if (const auto* failure = std::get_if<ValueFailure>(&result)) {
        return std::string(to_string(*failure));
    }
    return std::string(std::get<SecretBytes>(result).view());
}

std::string opened(std::string_view text) {
    return opened(text, data_key_of(kKey));
}

constexpr const char* kMalformed = "ciphertext-malformed";
constexpr const char* kTampered = "ciphertext-tampered-or-wrong-key";

struct Parts {
    client::Bytes iv;
    client::Bytes sealed;
    std::string text() const {
        return "enc:1:" + client::encode_base64(iv) + "." + client::encode_base64(sealed);
    }
};

Parts parts_of(std::string_view text) {
    const std::size_t dot = text.find('.');
    const auto decode = [](std::string_view base64) {
        client::Bytes bytes(base64_decoded_size(base64).value());
        EXPECT_TRUE(decode_base64(base64, bytes));
        return bytes;
    };
    return {decode(text.substr(6, dot - 6)), decode(text.substr(dot + 1))};
}

TEST(EncryptedValue, OpensTheVectors) {
    for (const core::Json& vector : grant_vectors().at("cases")) {
        const auto key =
            data_key_of(client::from_hex(vector.at("mission_data_key_hex").get<std::string>()));
        for (const core::Json& blob : vector.at("blobs")) {
            const std::string text = blob.at("blob");
            const std::string plaintext = opened(text, key);
            ASSERT_TRUE(core::parse_json(plaintext)) << text;
            EXPECT_EQ(*core::parse_json(plaintext), blob.at("value"));
        }
    }
}

TEST(EncryptedValue, IsWhatBeginsWithThePrefix) {
    EXPECT_TRUE(is_encrypted("enc:1:"));
    EXPECT_TRUE(is_encrypted("enc:1:x"));
    for (const char* text : {"", "enc:1", "enc:2:x", " enc:1:x", "ENC:1:x", "a plain note"}) {
        EXPECT_FALSE(is_encrypted(text)) << text;
        EXPECT_EQ(opened(text), kMalformed);
    }
}

TEST(EncryptedValue, AnyTruncationIsNoticed) {
    const std::string text = client::seal("\"Privat\"", kKey);
    EXPECT_EQ(opened(text), "\"Privat\"");
    for (std::size_t size = 0; size < text.size(); ++size) {
        EXPECT_EQ(opened(text.substr(0, size)).find("ciphertext-"), 0u) << size;
    }
    Parts parts = parts_of(text);
    while (!parts.sealed.empty()) {
        parts.sealed.pop_back();
        EXPECT_EQ(opened(parts.text()), parts.sealed.size() < 16 ? kMalformed : kTampered);
    }
}

TEST(EncryptedValue, EveryFlippedBitIsNoticed) {
    const Parts original = parts_of(client::seal(R"({"a":1})", kKey));
    for (std::size_t bit = 0; bit < original.iv.size() * 8; ++bit) {
        Parts parts = original;
        parts.iv[bit / 8] ^= static_cast<std::uint8_t>(1u << bit % 8);
        EXPECT_EQ(opened(parts.text()), kTampered);
    }
    for (std::size_t bit = 0; bit < original.sealed.size() * 8; ++bit) {
        Parts parts = original;
        parts.sealed[bit / 8] ^= static_cast<std::uint8_t>(1u << bit % 8);
        EXPECT_EQ(opened(parts.text()), kTampered);
    }
}

TEST(EncryptedValue, AnotherKeyOpensNothing) {
    const std::string text = client::seal("\"Privat\"", kKey);
    client::Bytes other = kKey;
    other[31] ^= 1;
    EXPECT_EQ(opened(text, data_key_of(other)), kTampered);
    EXPECT_EQ(opened(text, MissionDataKey()), kTampered);
    const core::Json& cases = grant_vectors().at("cases");
    EXPECT_EQ(opened(cases[0].at("blobs")[0].at("blob").get<std::string>(),
                     data_key_of(
                         client::from_hex(cases[1].at("mission_data_key_hex").get<std::string>()))),
              kTampered);
}

TEST(EncryptedValue, IvOfAnotherLengthIsMalformed) {
    for (const std::size_t size : {1, 8, 11, 13, 16, 32, 64}) {
        EXPECT_EQ(opened(client::seal("1", kKey, size)), kMalformed) << size;
    }
}

TEST(EncryptedValue, WrongBase64IsMalformed) {
    const std::string text = client::seal("\"Privat\"", kKey);
    const std::size_t dot = text.find('.');
    const std::string iv = text.substr(0, dot);
    const std::string sealed = text.substr(dot + 1);
    for (const std::string& wrong :
         {iv, iv + sealed, iv + ".", iv + "..", iv + "." + sealed + ".", iv + "." + sealed + "\n",
          iv + "." + sealed + "=", iv + ". " + sealed, iv + "=." + sealed, "enc:1:." + sealed,
          std::string("enc:1:"), std::string("enc:1:."), iv + ":" + sealed, iv + "." + iv.substr(6),
          iv + ".\xff\xfe\xfd\xfc", iv + std::string(1, '\0') + "." + sealed,
          iv + "." + sealed + std::string(4, '\0')}) {
        EXPECT_EQ(opened(wrong), kMalformed) << wrong;
    }
}

TEST(EncryptedValue, PlaintextThatIsNoJsonIsMalformed) {
    for (const std::string& plaintext :
         {std::string(), std::string(" "), std::string("Privat"), std::string("{"),
          std::string("1 2"), std::string("\"\xff\""), std::string("\xff\xfe"),
          std::string("1\0", 2), std::string(1000, '['), std::string("\"\\ud800\"")}) {
        EXPECT_EQ(opened(client::seal(plaintext, kKey)), kMalformed) << plaintext;
    }
}

TEST(EncryptedValue, OpensEveryKindOfJson) {
    for (const char* plaintext :
         {"null", "true", "0", "-1.5", "\"\"", "[]", "{}", " [1, \"ü😀\"] "}) {
        EXPECT_EQ(opened(client::seal(plaintext, kKey)), plaintext);
    }
}

TEST(EncryptedValue, SizeIsNoObstacleUpToTheLimit) {
    const std::string mebibyte = '"' + std::string(1 << 20, 'x') + '"';
    EXPECT_EQ(opened(client::seal(mebibyte, kKey)), mebibyte);
    EXPECT_EQ(opened("enc:1:" + std::string(1 << 20, 'A')), kMalformed);
    EXPECT_EQ(opened("enc:1:" + std::string(16, 'A') + "." + std::string(1 << 20, 'A')), kTampered);
    EXPECT_EQ(opened("enc:1:" + std::string(16, 'A') + "." + std::string(kMaxEncryptedValue, 'A')),
              kMalformed);
    EXPECT_EQ(opened(std::string(1 << 20, '\xff')), kMalformed);
}

TEST(EncryptedValue, FailuresAreNamedAsInTheAudit) {
    EXPECT_EQ(to_string(ValueFailure::kMalformed), "ciphertext-malformed");
    EXPECT_EQ(to_string(ValueFailure::kTamperedOrWrongKey), "ciphertext-tampered-or-wrong-key");
}

}  // namespace
}  // namespace mana_ai::crypto
