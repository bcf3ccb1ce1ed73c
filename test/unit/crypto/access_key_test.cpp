#include "mana_ai/crypto/access_key.hpp"

#include <gtest/gtest.h>

#include <string>

namespace mana_ai::crypto {
namespace {

constexpr core::Instant kNow = 1'776'300'000 * core::kMicrosPerSecond;

TEST(AccessKey, FitsOnlyItself) {
    EXPECT_TRUE(is_access_key("secret", "secret"));
    EXPECT_FALSE(is_access_key("secre", "secret"));
    EXPECT_FALSE(is_access_key("secret2", "secret"));
    EXPECT_FALSE(is_access_key("", "secret"));
}

TEST(AccessKey, NothingFitsNoKey) {
    EXPECT_FALSE(is_access_key("", ""));
    EXPECT_FALSE(is_access_key("x", ""));
    EXPECT_FALSE(is_ticket(issue_ticket("", kNow + 1), "", kNow));
}

TEST(AccessKey, ATicketIsGoodUntilItsInstant) {
    const std::string ticket = issue_ticket("secret", kNow + 10);
    EXPECT_TRUE(is_ticket(ticket, "secret", kNow));
    EXPECT_TRUE(is_ticket(ticket, "secret", kNow + 9));
    EXPECT_FALSE(is_ticket(ticket, "secret", kNow + 10));
}

TEST(AccessKey, ATicketIsOfOneKeyAndDoesNotHoldIt) {
    const std::string ticket = issue_ticket("secret", kNow + 10);
    EXPECT_FALSE(is_ticket(ticket, "other", kNow));
    EXPECT_EQ(ticket.find("secret"), std::string::npos);
}

TEST(AccessKey, ATicketCannotBeChanged) {
    const std::string ticket = issue_ticket("secret", kNow + 10);
    for (std::size_t i = 0; i < ticket.size(); ++i) {
        std::string changed = ticket;
        changed[i] = changed[i] == '1' ? '2' : '1';
        EXPECT_FALSE(is_ticket(changed, "secret", kNow)) << i;
    }
    EXPECT_FALSE(is_ticket(ticket + "x", "secret", kNow));
    EXPECT_FALSE(is_ticket("0" + ticket, "secret", kNow));
    for (const char* odd : {"", ".", "1", "1.", ".x", "99999999999999999999999.x"}) {
        EXPECT_FALSE(is_ticket(odd, "secret", kNow)) << odd;
    }
}

TEST(AccessKey, DigestOfAPolicyIsPaddedBase64) {
    EXPECT_EQ(sha256_base64("abc"), "ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0=");
}

}  // namespace
}  // namespace mana_ai::crypto
