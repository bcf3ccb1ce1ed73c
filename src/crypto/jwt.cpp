#include "mana_ai/crypto/jwt.hpp"

#include <openssl/bn.h>
#include <openssl/crypto.h>
#include <openssl/ec.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <new>
#include <optional>
#include <span>
#include <utility>

#include "mana_ai/core/text/json.hpp"
#include "mana_ai/crypto/base64.hpp"
#include "mana_ai/crypto/unavailable.hpp"
#include "openssl_scope.hpp"

namespace mana_ai::crypto {

namespace {

using Bytes = std::vector<std::uint8_t>;
using DigestContext = std::unique_ptr<EVP_MD_CTX, FreeWith<EVP_MD_CTX_free>>;
using Signature = std::unique_ptr<ECDSA_SIG, FreeWith<ECDSA_SIG_free>>;

constexpr int kP256Size = 32;
// The last second of the year 9999; later instants count as infinite.
constexpr double kLastSecond = 253402300799.0;

std::optional<core::Json> json_part(std::string_view text) {
    const auto bytes = decode_base64url(text);
    if (!bytes) {
        return std::nullopt;
    }
    auto json = core::parse_json({reinterpret_cast<const char*>(bytes->data()), bytes->size()});
    if (!json || !json->is_object()) {
        return std::nullopt;
    }
    return json;
}

// A JWS concatenates the two numbers of an ECDSA signature, OpenSSL expects DER.
std::optional<Bytes> ecdsa_der(std::span<const std::uint8_t> raw) {
    if (raw.size() != 2 * kP256Size) {
        return std::nullopt;
    }
    const Signature signature(ECDSA_SIG_new());
    std::unique_ptr<BIGNUM, FreeWith<BN_free>> r(BN_bin2bn(raw.data(), kP256Size, nullptr));
    std::unique_ptr<BIGNUM, FreeWith<BN_free>> s(
        BN_bin2bn(raw.data() + kP256Size, kP256Size, nullptr));
    if (signature == nullptr || r == nullptr || s == nullptr ||
        ECDSA_SIG_set0(signature.get(), r.get(), s.get()) != 1) {
        throw std::bad_alloc();
    }
    (void)r.release();
    (void)s.release();
    const int size = i2d_ECDSA_SIG(signature.get(), nullptr);
    if (size <= 0) {
        return std::nullopt;
    }
    Bytes der(static_cast<std::size_t>(size));
    unsigned char* out = der.data();
    i2d_ECDSA_SIG(signature.get(), &out);
    return der;
}

bool is_signed_by(const JwtKey& key, std::string_view text, const Bytes& signature) {
    const ErrorQueueScope errors;
    std::optional<Bytes> der;
    const Bytes* checked = &signature;
    if (key.algorithm == JwtAlgorithm::kEs256) {
        der = ecdsa_der(signature);
        if (!der) {
            return false;
        }
        checked = &*der;
    }
    const DigestContext context(EVP_MD_CTX_new());
    const char* digest = key.algorithm == JwtAlgorithm::kEdDsa ? nullptr : "SHA256";
    if (context == nullptr || EVP_DigestVerifyInit_ex(context.get(), nullptr, digest, nullptr,
                                                      nullptr, key.pkey.get(), nullptr) != 1) {
        throw CryptoUnavailable("checking signatures is not available");
    }
    return EVP_DigestVerify(context.get(), checked->data(), checked->size(),
                            reinterpret_cast<const unsigned char*>(text.data()), text.size()) == 1;
}

std::variant<const JwtKey*, JwtRefusal> choose_key(const core::Json& header, const Jwks& keys) {
    const auto algorithm = jwt_algorithm(core::string_or(header, "alg", {}));
    if (!algorithm) {
        return JwtRefusal::kUnsupportedAlgorithm;
    }
    if (header.contains("crit")) {
        return JwtRefusal::kCriticalHeader;
    }
    const auto kid = header.find("kid");
    if (kid == header.end()) {
        if (keys.keys().empty()) {
            return JwtRefusal::kUnknownKey;
        }
        if (keys.keys().size() > 1) {
            return JwtRefusal::kAmbiguousKey;
        }
    } else if (!kid->is_string()) {
        return JwtRefusal::kMalformed;
    }
    bool other_type = false;
    for (const JwtKey& key : keys.keys()) {
        if (kid != header.end() && key.kid != kid->get_ref<const std::string&>()) {
            continue;
        }
        if (key.algorithm == *algorithm) {
            return &key;
        }
        other_type = true;
    }
    return other_type ? JwtRefusal::kAlgorithmMismatch : JwtRefusal::kUnknownKey;
}

// Seconds since the epoch, possibly with a fraction. nullopt: present but not such a number.
std::optional<core::Instant> instant_member(const core::Json& value) {
    if (!value.is_number()) {
        return std::nullopt;
    }
    const double seconds = value.get<double>();
    if (!std::isfinite(seconds) || seconds < 0) {
        return std::nullopt;
    }
    return static_cast<core::Instant>(std::min(seconds, kLastSecond) *
                                      static_cast<double>(core::kMicrosPerSecond));
}

bool names_audience(const core::Json& audience, const std::string& wanted) {
    if (audience.is_string()) {
        return audience.get_ref<const std::string&>() == wanted;
    }
    return audience.is_array() &&
           std::ranges::any_of(audience, [&](const core::Json& a) { return a == wanted; });
}

bool is_user_id(const std::string& subject) {
    return !subject.empty() && subject.size() <= kMaxJwtSubject &&
           std::ranges::none_of(
               subject, [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7F; });
}

std::variant<JwtClaims, JwtRefusal> check_claims(const core::Json& claims, const JwtRules& rules) {
    JwtClaims result;
    const auto issuer = claims.find("iss");
    if (issuer == claims.end() || !issuer->is_string() ||
        std::ranges::find(rules.issuers, issuer->get_ref<const std::string&>()) ==
            rules.issuers.end()) {
        return JwtRefusal::kWrongIssuer;
    }
    const auto audience = claims.find("aud");
    if (audience == claims.end() || !names_audience(*audience, rules.audience)) {
        return JwtRefusal::kWrongAudience;
    }
    const auto expiry = claims.find("exp");
    if (expiry == claims.end()) {
        return JwtRefusal::kNoExpiry;
    }
    const auto expires_at = instant_member(*expiry);
    if (!expires_at) {
        return JwtRefusal::kMalformed;
    }
    if (*expires_at + kJwtClockSkew <= rules.now) {
        return JwtRefusal::kExpired;
    }
    if (const auto not_before = claims.find("nbf"); not_before != claims.end()) {
        const auto valid_from = instant_member(*not_before);
        if (!valid_from) {
            return JwtRefusal::kMalformed;
        }
        if (*valid_from - kJwtClockSkew > rules.now) {
            return JwtRefusal::kNotYetValid;
        }
    }
    const auto subject = claims.find("sub");
    if (subject == claims.end() || !subject->is_string() ||
        !is_user_id(subject->get_ref<const std::string&>())) {
        return JwtRefusal::kNoSubject;
    }
    result.subject = subject->get<std::string>();
    result.expires_at = *expires_at;
    return result;
}

}  // namespace

std::string_view to_string(JwtRefusal refusal) noexcept {
    switch (refusal) {
        case JwtRefusal::kTooLarge:
            return "too-large";
        case JwtRefusal::kMalformed:
            return "malformed";
        case JwtRefusal::kUnsupportedAlgorithm:
            return "unsupported-algorithm";
        case JwtRefusal::kCriticalHeader:
            return "critical-header";
        case JwtRefusal::kUnknownKey:
            return "unknown-key";
        case JwtRefusal::kAmbiguousKey:
            return "ambiguous-key";
        case JwtRefusal::kAlgorithmMismatch:
            return "algorithm-mismatch";
        case JwtRefusal::kBadSignature:
            return "bad-signature";
        case JwtRefusal::kWrongIssuer:
            return "wrong-issuer";
        case JwtRefusal::kWrongAudience:
            return "wrong-audience";
        case JwtRefusal::kExpired:
            return "expired";
        case JwtRefusal::kNoExpiry:
            return "no-expiry";
        case JwtRefusal::kNotYetValid:
            return "not-yet-valid";
        case JwtRefusal::kNoSubject:
            return "no-subject";
    }
    return "malformed";
}

std::variant<JwtClaims, JwtRefusal> verify_jwt(std::string_view token, const Jwks& keys,
                                               const JwtRules& rules) {
    if (token.size() > kMaxJwt) {
        return JwtRefusal::kTooLarge;
    }
    const std::size_t first = token.find('.');
    const std::size_t second = first == token.npos ? first : token.find('.', first + 1);
    if (second == token.npos) {
        return JwtRefusal::kMalformed;
    }
    const auto header = json_part(token.substr(0, first));
    // A fourth part would contain a dot, which is not a digit of base64url.
    const auto signature = decode_base64url(token.substr(second + 1));
    if (!header || !signature) {
        return JwtRefusal::kMalformed;
    }
    const auto chosen = choose_key(*header, keys);
    if (const auto* refusal = std::get_if<JwtRefusal>(&chosen)) {
        return *refusal;
    }
    if (!is_signed_by(*std::get<const JwtKey*>(chosen), token.substr(0, second), *signature)) {
        return JwtRefusal::kBadSignature;
    }
    const auto claims = json_part(token.substr(first + 1, second - first - 1));
    if (!claims) {
        return JwtRefusal::kMalformed;
    }
    return check_claims(*claims, rules);
}

}  // namespace mana_ai::crypto
