// The key that mission grants are wrapped for (mana_ai.grant_private_key_file).
// docs/contract/inputs.md, Mission key grant.
#pragma once

#include <sys/types.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <variant>

#include "mana_ai/crypto/secret_bytes.hpp"

namespace mana_ai::crypto {

// Why there is no key: English, a predicate to follow the file's name ("is not a regular file").
// A constant text, so nothing of the file's content can be in it.
struct PrivateKeyError {
    std::string_view reason;
};

// An RSA key of 2048 bits. Its numbers stay in a SecretBytes; OpenSSL gets a copy for the time of
// one unwrap() and wipes it. Move-only; a moved-from key may only be assigned to or destroyed.
// Everything here may throw std::bad_alloc and CryptoUnavailable, neither because of the input.
class PrivateKey {
 public:
    static constexpr std::size_t kWrappedSize = 256;  // bytes
    static constexpr std::size_t kMaxFileSize = 16 * 1024;

    // Reads a PKCS#8 PEM file. It must be a regular file (a symbolic link to one will do) that
    // belongs to `owner` or root and that group and others cannot access at all. Blocks for no
    // longer than the file system does.
    static std::variant<PrivateKey, PrivateKeyError> load(const std::string& path, uid_t owner);

    // The same from memory: one unencrypted PRIVATE KEY block, maybe with text before it.
    static std::variant<PrivateKey, PrivateKeyError> from_pem(std::string_view pem);

    // RSA-OAEP with SHA-256, also in MGF1. nullopt if `wrapped` was not made for this key, without
    // further details. Takes about a millisecond of CPU.
    std::optional<SecretBytes> unwrap(std::span<const std::uint8_t> wrapped) const;

    // Whether both are the same key, by their public halves.
    bool same_public_key(const PrivateKey& other) const noexcept;
    // The same for two processes with the same key, else different; says nothing about the private
    // half. 64 hexadecimal characters.
    std::string public_digest() const;
    // Whether `public_pem` (SubjectPublicKeyInfo) is this key's public half; false for any text
    // that is not a public key.
    bool has_public_key(std::string_view public_pem) const;

 private:
    // In the order of PKCS#1's RSAPrivateKey.
    enum Number { kN, kE, kD, kP, kQ, kDp, kDq, kQinv, kNumbers };
    struct Extent {
        std::size_t offset = 0;
        std::size_t size = 0;  // bytes
    };

    PrivateKey() = default;
    // From a key in PKCS#8 DER; takes ownership.
    static std::variant<PrivateKey, PrivateKeyError> from_der(SecretBytes der);
    bool unwraps_what_is_wrapped() const;
    std::span<const std::uint8_t> number(Number which) const noexcept {
        return der_.bytes().subspan(numbers_[which].offset, numbers_[which].size);
    }

    SecretBytes der_;                         // with the numbers in the machine's byte order
    std::array<Extent, kNumbers> numbers_{};  // where they are in der_

    friend class KeyMaterial;
};

}  // namespace mana_ai::crypto
