#include "mana_ai/crypto/page_tickets.hpp"

#include <openssl/rand.h>

#include <algorithm>
#include <array>
#include <cstdint>

#include "mana_ai/crypto/base64.hpp"
#include "mana_ai/crypto/unavailable.hpp"
#include "openssl_scope.hpp"

namespace mana_ai::crypto {

namespace {

constexpr std::string_view kPurpose = "mana_ai page ticket ";

std::string mac_of(std::string_view ticket, std::string_view key) {
    const ErrorQueueScope errors;
    const std::string text = std::string(kPurpose) += ticket;
    std::array<unsigned char, 32> mac{};
    if (EVP_Q_mac(nullptr, "HMAC", nullptr, "SHA256", nullptr, key.data(), key.size(),
                  reinterpret_cast<const unsigned char*>(text.data()), text.size(), mac.data(),
                  mac.size(), nullptr) == nullptr) {
        throw CryptoUnavailable("HMAC is not available");
    }
    return {mac.begin(), mac.end()};
}

std::string random_ticket() {
    const ErrorQueueScope errors;
    std::array<std::uint8_t, 24> bytes{};
    if (RAND_bytes(bytes.data(), static_cast<int>(bytes.size())) != 1) {
        throw CryptoUnavailable("random numbers are not available");
    }
    return encode_base64url(bytes);
}

}  // namespace

std::string PageTickets::issue(std::string_view key, core::Instant now, core::Instant good_until) {
    std::erase_if(good_until_, [now](const auto& ticket) { return ticket.second <= now; });
    if (good_until_.size() >= kMost) {
        good_until_.erase(std::ranges::min_element(
            good_until_, {}, [](const auto& ticket) { return ticket.second; }));
    }
    std::string ticket = random_ticket();
    good_until_[mac_of(ticket, key)] = good_until;
    return ticket;
}

bool PageTickets::is_good(std::string_view ticket, std::string_view key, core::Instant now) const {
    if (ticket.empty() || key.empty()) {
        return false;
    }
    const auto found = good_until_.find(mac_of(ticket, key));
    return found != good_until_.end() && now < found->second;
}

void PageTickets::revoke(std::string_view ticket, std::string_view key) {
    good_until_.erase(mac_of(ticket, key));
}

}  // namespace mana_ai::crypto
