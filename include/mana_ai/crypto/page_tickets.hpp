// The tickets of the page: each represents the service key in one browser's cookie.
// docs/contract/interface.md, HTTP endpoints.
#pragma once

#include <cstddef>
#include <map>
#include <string>
#include <string_view>

#include "mana_ai/core/time/instant.hpp"

namespace mana_ai::crypto {

// The valid tickets, in this process's memory. A ticket is random and independent of the key; a new
// key invalidates it. Only an HMAC of the ticket under the key is stored, which does not open the
// page.
class PageTickets {
 public:
    // Above this number the one that expires first becomes invalid.
    static constexpr std::size_t kMost = 100;

    // For a client that has shown the key. Digits of base64url. CryptoUnavailable.
    std::string issue(std::string_view key, core::Instant now, core::Instant good_until);
    bool is_good(std::string_view ticket, std::string_view key, core::Instant now) const;
    void revoke(std::string_view ticket, std::string_view key);

 private:
    std::map<std::string, core::Instant> good_until_;  // by HMAC
};

}  // namespace mana_ai::crypto
