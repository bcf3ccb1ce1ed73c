// Public keys of the issuers of users' tokens, as a JSON Web Key Set (RFC 7517).
// docs/contract/interface.md, HTTP endpoints.
#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

struct evp_pkey_st;

namespace mana_ai::crypto {

// Algorithms of a token's signature; each belongs to one type of key.
enum class JwtAlgorithm {
    kEdDsa,  // Ed25519
    kRs256,
    kEs256,
};

// nullopt for every other name: "none" and the symmetric ones are not supported at all.
std::optional<JwtAlgorithm> jwt_algorithm(std::string_view name) noexcept;

struct JwtKey {
    std::string kid;  // empty = the key has none
    JwtAlgorithm algorithm;
    std::shared_ptr<evp_pkey_st> pkey;
};

class Jwks {
 public:
    static constexpr std::size_t kMaxDocument = 256 * 1024;
    static constexpr std::size_t kMaxKeys = 64;

    // No keys: no token is accepted.
    Jwks() = default;

    // nullopt if the text is not a key set. Unusable keys are left out: of other types, for
    // encryption, RSA below 2048 bits, symmetric ones. Any text may be given. std::bad_alloc and
    // CryptoUnavailable, neither because of the text.
    static std::optional<Jwks> parse(std::string_view document);

    std::span<const JwtKey> keys() const noexcept { return keys_; }

 private:
    std::vector<JwtKey> keys_;
};

}  // namespace mana_ai::crypto
