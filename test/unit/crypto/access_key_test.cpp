#include "mana_ai/crypto/access_key.hpp"

#include <gtest/gtest.h>

namespace mana_ai::crypto {
namespace {

TEST(AccessKey, FitsOnlyItself) {
    EXPECT_TRUE(is_access_key("secret", "secret"));
    EXPECT_FALSE(is_access_key("secre", "secret"));
    EXPECT_FALSE(is_access_key("secret2", "secret"));
    EXPECT_FALSE(is_access_key("", "secret"));
}

TEST(AccessKey, NothingFitsNoKey) {
    EXPECT_FALSE(is_access_key("", ""));
    EXPECT_FALSE(is_access_key("x", ""));
}

TEST(AccessKey, DigestOfAPolicyIsPaddedBase64) {
    EXPECT_EQ(sha256_base64("abc"), "ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0=");
}

}  // namespace
}  // namespace mana_ai::crypto
