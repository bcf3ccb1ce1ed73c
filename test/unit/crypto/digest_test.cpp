#include "mana_ai/crypto/digest.hpp"

#include <gtest/gtest.h>

namespace mana_ai::crypto {
namespace {

// FIPS 180-2, appendix B.
TEST(Digest, AgreesWithTheStandardsExamples) {
    EXPECT_EQ(sha256_hex(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    EXPECT_EQ(sha256_hex("abc"),
              "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    EXPECT_EQ(sha256_hex(std::string(1'000'000, 'a')),
              "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

TEST(Digest, ACopyContinuesWhereItsOriginalWas) {
    Sha256 common;
    common.add(std::string(999, 'a'));
    Sha256 first = common;
    first.add("b");
    EXPECT_EQ(first.hex_with(""), sha256_hex(std::string(999, 'a') + "b"));
    // Asking changes nothing.
    EXPECT_EQ(first.hex_with("c"), sha256_hex(std::string(999, 'a') + "bc"));
    EXPECT_EQ(first.hex_with("d"), sha256_hex(std::string(999, 'a') + "bd"));
    EXPECT_EQ(common.hex_with(""), sha256_hex(std::string(999, 'a')));
    common = first;
    EXPECT_EQ(common.hex_with(""), first.hex_with(""));
}

}  // namespace
}  // namespace mana_ai::crypto
