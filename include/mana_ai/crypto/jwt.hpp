// Tokens by which users prove who they are: compact JSON Web Signatures (RFC 7515, 7519).
// docs/contract/interface.md, HTTP endpoints.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "mana_ai/core/time/instant.hpp"
#include "mana_ai/crypto/jwks.hpp"

namespace mana_ai::crypto {

inline constexpr std::size_t kMaxJwt = 16 * 1024;
// How far the issuer's clock may differ from ours.
inline constexpr core::Instant kJwtClockSkew = 60 * core::kMicrosPerSecond;
// In bytes; the longest user id that fits into our index keys.
inline constexpr std::size_t kMaxJwtSubject = 1000;

enum class JwtRefusal {
    kTooLarge,
    kMalformed,             // not three parts of base64url, or no JSON objects, or odd members
    kUnsupportedAlgorithm,  // none, symmetric, unknown
    kCriticalHeader,        // asks for an extension that we do not know
    kUnknownKey,            // no key with this kid; a newer key set may have it
    kAmbiguousKey,          // no kid, and more than one key
    kAlgorithmMismatch,     // the key is of another type than the algorithm
    kBadSignature,
    kWrongIssuer,
    kWrongAudience,
    kExpired,
    kNoExpiry,
    kNotYetValid,
    kNoSubject,  // or one that cannot be a user's id
};

// "expired", "unknown-key", …: for metrics and logs, never for the client.
std::string_view to_string(JwtRefusal refusal) noexcept;

struct JwtRules {
    core::Instant now = 0;
    std::vector<std::string> issuers;  // any of these
    std::string audience;              // the token names it, alone or among others
};

struct JwtClaims {
    std::string subject;
    core::Instant expires_at = 0;
};

// Before the signature is verified, nothing of the token is trusted except which key and algorithm
// to verify it with. Any text may be given. std::bad_alloc and CryptoUnavailable, neither because
// of the token.
std::variant<JwtClaims, JwtRefusal> verify_jwt(std::string_view token, const Jwks& keys,
                                               const JwtRules& rules);

}  // namespace mana_ai::crypto
