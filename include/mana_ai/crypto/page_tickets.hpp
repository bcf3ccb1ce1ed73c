// The tickets of the page: each stands for the service key in one browser's cookie.
// docs/contract/interface.md, HTTP endpoints.
#pragma once

#include <cstddef>
#include <map>
#include <string>
#include <string_view>

#include "mana_ai/core/time/instant.hpp"

namespace mana_ai::crypto {

// Those that are good, in this process's memory. A ticket is random and says nothing about the key;
// a new key makes it void. What is kept does not open the page either: it is an HMAC of the ticket
// under the key.
class PageTickets {
 public:
    // Beyond this many the one that ends first is void.
    static constexpr std::size_t kMost = 100;

    // For whoever has shown the key. Digits of base64url. CryptoUnavailable.
    std::string issue(std::string_view key, core::Instant now, core::Instant good_until);
    bool is_good(std::string_view ticket, std::string_view key, core::Instant now) const;
    void revoke(std::string_view ticket, std::string_view key);

 private:
    std::map<std::string, core::Instant> good_until_;  // by HMAC
};

}  // namespace mana_ai::crypto
