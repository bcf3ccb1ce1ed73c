#include "mana_ai/crypto/digest.hpp"

#include <openssl/evp.h>

#include <array>

#include "mana_ai/crypto/unavailable.hpp"

namespace mana_ai::crypto {

std::string sha256_hex(std::string_view text) {
    std::array<unsigned char, 32> digest{};
    if (EVP_Digest(text.data(), text.size(), digest.data(), nullptr, EVP_sha256(), nullptr) != 1) {
        throw CryptoUnavailable("SHA-256");
    }
    static constexpr char kDigits[] = "0123456789abcdef";
    std::string hex;
    hex.reserve(2 * digest.size());
    for (const unsigned char byte : digest) {
        hex += kDigits[byte >> 4];
        hex += kDigits[byte & 15];
    }
    return hex;
}

}  // namespace mana_ai::crypto
