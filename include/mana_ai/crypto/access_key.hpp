// The service key as a password of the page: comparing it, and the ticket that stands for it in a
// browser's cookie. docs/contract/interface.md, HTTP endpoints.
#pragma once

#include <string>
#include <string_view>

#include "mana_ai/core/time/instant.hpp"

namespace mana_ai::crypto {

// Whether a key that was offered is the right one, in a time that tells nothing about where they
// differ. An empty right key fits nothing. CryptoUnavailable.
bool is_access_key(std::string_view offered, std::string_view key);

// A ticket that is good until the instant, for whoever has shown the key. It holds the instant and
// an HMAC over it under a key derived from `key`: who has it cannot learn the key other than by
// guessing, and a new key makes it void. Digits of base64url and a dot. CryptoUnavailable.
std::string issue_ticket(std::string_view key, core::Instant good_until);
bool is_ticket(std::string_view ticket, std::string_view key, core::Instant now);

// The SHA-256 of a text in padded base64, as a Content-Security-Policy names it.
std::string sha256_base64(std::string_view text);

}  // namespace mana_ai::crypto
