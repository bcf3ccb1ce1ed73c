#include "mana_ai/crypto/page_tickets.hpp"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace mana_ai::crypto {
namespace {

constexpr core::Instant kNow = 1'776'300'000 * core::kMicrosPerSecond;

TEST(PageTickets, AreGoodUntilTheirInstant) {
    PageTickets tickets;
    const std::string ticket = tickets.issue("secret", kNow, kNow + 10);
    EXPECT_TRUE(tickets.is_good(ticket, "secret", kNow));
    EXPECT_TRUE(tickets.is_good(ticket, "secret", kNow + 9));
    EXPECT_FALSE(tickets.is_good(ticket, "secret", kNow + 10));
}

TEST(PageTickets, AreOfOneKeyAndDoNotHoldIt) {
    PageTickets tickets;
    const std::string ticket = tickets.issue("secret", kNow, kNow + 10);
    EXPECT_FALSE(tickets.is_good(ticket, "other", kNow));
    EXPECT_FALSE(tickets.is_good(ticket, "", kNow));
    EXPECT_EQ(ticket.find("secret"), std::string::npos);
}

TEST(PageTickets, CannotBeChanged) {
    PageTickets tickets;
    const std::string ticket = tickets.issue("secret", kNow, kNow + 10);
    for (std::size_t i = 0; i < ticket.size(); ++i) {
        std::string changed = ticket;
        changed[i] = changed[i] == '1' ? '2' : '1';
        EXPECT_FALSE(tickets.is_good(changed, "secret", kNow)) << i;
    }
    for (const std::string& odd : std::vector<std::string>{ticket + "x", "0" + ticket, "", "."}) {
        EXPECT_FALSE(tickets.is_good(odd, "secret", kNow)) << odd;
    }
}

TEST(PageTickets, ARevokedOneIsVoidAndNoOther) {
    PageTickets tickets;
    const std::string one = tickets.issue("secret", kNow, kNow + 10);
    const std::string other = tickets.issue("secret", kNow, kNow + 10);
    EXPECT_NE(one, other);
    tickets.revoke(other, "another key");
    EXPECT_TRUE(tickets.is_good(other, "secret", kNow));
    tickets.revoke(one, "secret");
    EXPECT_FALSE(tickets.is_good(one, "secret", kNow));
    EXPECT_TRUE(tickets.is_good(other, "secret", kNow));
}

TEST(PageTickets, AreNotMoreThanThereMayBe) {
    PageTickets tickets;
    std::vector<std::string> issued;
    for (std::size_t i = 0; i <= PageTickets::kMost; ++i) {
        issued.push_back(tickets.issue("secret", kNow, kNow + 10 + static_cast<int64_t>(i)));
    }
    EXPECT_FALSE(tickets.is_good(issued.front(), "secret", kNow));
    for (std::size_t i = 1; i < issued.size(); ++i) {
        EXPECT_TRUE(tickets.is_good(issued[i], "secret", kNow)) << i;
    }
}

}  // namespace
}  // namespace mana_ai::crypto
