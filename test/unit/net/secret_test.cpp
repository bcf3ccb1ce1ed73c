#include "mana_ai/net/secret.hpp"

#include <gtest/gtest.h>

#include <type_traits>

namespace mana_ai::net {
namespace {

static_assert(!std::is_copy_constructible_v<Secret> && !std::is_copy_assignable_v<Secret>);
static_assert(std::is_nothrow_move_constructible_v<Secret>);

TEST(Secret, KeepsItsTextAndGivesItUpWhenMoved) {
    Secret key(std::string_view("hunter2"));
    EXPECT_EQ(key.view(), "hunter2");
    Secret other = std::move(key);
    EXPECT_TRUE(key.empty());
    EXPECT_EQ(other.view(), "hunter2");
    key = std::move(other);
    EXPECT_EQ(key.size(), 7u);
    EXPECT_EQ(key.prefixed("Authorization: Bearer "), "Authorization: Bearer hunter2");
    key.clear();
    EXPECT_TRUE(key.empty());
    EXPECT_TRUE(Secret().view().empty());
}

TEST(Secret, WipesTheStringItIsMadeFrom) {
    std::string text = "short";
    const char* bytes = text.data();
    Secret key(std::move(text));
    EXPECT_EQ(key.view(), "short");
    EXPECT_TRUE(text.empty());
    EXPECT_EQ(std::string(bytes, 5), std::string(5, '\0'));
}

TEST(Secret, Compares) {
    const Secret key(std::string_view("token"));
    EXPECT_TRUE(key.equals("token"));
    EXPECT_FALSE(key.equals("tokem"));
    EXPECT_FALSE(key.equals("toke"));
    EXPECT_FALSE(key.equals(""));
    EXPECT_TRUE(Secret().equals(""));
}

}  // namespace
}  // namespace mana_ai::net
