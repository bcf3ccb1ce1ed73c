#include "mana_ai/core/service/error_kind.hpp"

#include <gtest/gtest.h>

namespace mana_ai::core {
namespace {

TEST(ErrorKind, NamesGoThereAndBack) {
    for (const char* text :
         {"blocked", "capability", "auth", "rate_limit", "truncated", "no_healthy_provider",
          "unknown", "timeout", "unreachable", "malformed"}) {
        ASSERT_TRUE(error_kind_from_name(text)) << text;
        EXPECT_STREQ(name(*error_kind_from_name(text)), text);
    }
}

TEST(ErrorKind, OtherTextsAreNoKind) {
    EXPECT_FALSE(error_kind_from_name(""));
    EXPECT_FALSE(error_kind_from_name("Blocked"));
    EXPECT_FALSE(error_kind_from_name("rate-limit"));
}

}  // namespace
}  // namespace mana_ai::core
