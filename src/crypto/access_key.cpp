#include "mana_ai/crypto/access_key.hpp"

#include <openssl/crypto.h>
#include <openssl/evp.h>

#include <array>
#include <cstdint>

#include "mana_ai/crypto/unavailable.hpp"
#include "openssl_scope.hpp"

namespace mana_ai::crypto {

namespace {

using Digest = std::array<std::uint8_t, 32>;

Digest sha256(std::string_view text) {
    const ErrorQueueScope errors;
    Digest digest{};
    if (EVP_Q_digest(nullptr, "SHA256", nullptr, text.data(), text.size(), digest.data(),
                     nullptr) != 1) {
        throw CryptoUnavailable("SHA-256 is not available");
    }
    return digest;
}

}  // namespace

bool is_access_key(std::string_view offered, std::string_view key) {
    // Digests have one length, so not even that of the key shows.
    const Digest theirs = sha256(offered);
    const Digest ours = sha256(key);
    return CRYPTO_memcmp(theirs.data(), ours.data(), ours.size()) == 0 && !key.empty();
}

std::string sha256_base64(std::string_view text) {
    const Digest digest = sha256(text);
    std::array<unsigned char, 45> base64{};  // 44 digits and a NUL
    EVP_EncodeBlock(base64.data(), digest.data(), static_cast<int>(digest.size()));
    return reinterpret_cast<const char*>(base64.data());
}

}  // namespace mana_ai::crypto
