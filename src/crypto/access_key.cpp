#include "mana_ai/crypto/access_key.hpp"

#include <openssl/crypto.h>
#include <openssl/hmac.h>

#include <array>
#include <charconv>
#include <cstdint>
#include <limits>

#include "mana_ai/crypto/base64.hpp"
#include "mana_ai/crypto/unavailable.hpp"
#include "openssl_scope.hpp"

namespace mana_ai::crypto {

namespace {

using Digest = std::array<std::uint8_t, 32>;

constexpr std::string_view kTicketPurpose = "mana_ai page ticket";

Digest sha256(std::string_view text) {
    const ErrorQueueScope errors;
    Digest digest{};
    if (EVP_Q_digest(nullptr, "SHA256", nullptr, text.data(), text.size(), digest.data(),
                     nullptr) != 1) {
        throw CryptoUnavailable("SHA-256 is not available");
    }
    return digest;
}

Digest hmac(std::string_view key, std::string_view text) {
    const ErrorQueueScope errors;
    Digest digest{};
    if (EVP_Q_mac(nullptr, "HMAC", nullptr, "SHA256", nullptr, key.data(), key.size(),
                  reinterpret_cast<const unsigned char*>(text.data()), text.size(), digest.data(),
                  digest.size(), nullptr) == nullptr) {
        throw CryptoUnavailable("HMAC is not available");
    }
    return digest;
}

std::string ticket_mac(std::string_view key, std::string_view instant) {
    Digest derived = hmac(key, kTicketPurpose);
    const Digest mac =
        hmac({reinterpret_cast<const char*>(derived.data()), derived.size()}, instant);
    OPENSSL_cleanse(derived.data(), derived.size());
    return encode_base64url(mac);
}

}  // namespace

bool is_access_key(std::string_view offered, std::string_view key) {
    // Digests have one length, so not even that of the key shows.
    const Digest theirs = sha256(offered);
    const Digest ours = sha256(key);
    return CRYPTO_memcmp(theirs.data(), ours.data(), ours.size()) == 0 && !key.empty();
}

std::string issue_ticket(std::string_view key, core::Instant good_until) {
    const std::string instant = std::to_string(good_until);
    return instant + '.' + ticket_mac(key, instant);
}

bool is_ticket(std::string_view ticket, std::string_view key, core::Instant now) {
    const std::size_t dot = ticket.find('.');
    if (key.empty() || dot == ticket.npos || dot > std::numeric_limits<core::Instant>::digits10) {
        return false;
    }
    const std::string_view instant = ticket.substr(0, dot);
    const std::string mac = ticket_mac(key, instant);
    const std::string_view theirs = ticket.substr(dot + 1);
    if (theirs.size() != mac.size() || CRYPTO_memcmp(theirs.data(), mac.data(), mac.size()) != 0) {
        return false;
    }
    core::Instant good_until = 0;
    const char* const end = instant.data() + instant.size();
    const auto [rest, error] = std::from_chars(instant.data(), end, good_until);
    return error == std::errc() && rest == end && now < good_until;
}

std::string sha256_base64(std::string_view text) {
    const Digest digest = sha256(text);
    std::array<unsigned char, 45> base64{};  // 44 digits and a NUL
    EVP_EncodeBlock(base64.data(), digest.data(), static_cast<int>(digest.size()));
    return reinterpret_cast<const char*>(base64.data());
}

}  // namespace mana_ai::crypto
