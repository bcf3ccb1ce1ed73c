// Any text as a token, as the parts of one that is signed with the right key, and as a key set.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>
#include <variant>

#include "../unit/crypto/token_issuer.hpp"
#include "mana_ai/crypto/jwt.hpp"
#include "mana_ai/crypto/page_tickets.hpp"

namespace {

using namespace mana_ai::crypto;
namespace core = mana_ai::core;

constexpr core::Instant kNow = 1'776'300'000 * core::kMicrosPerSecond;

void require(bool condition) {
    if (!condition) {
        std::abort();
    }
}

void check_claims(const std::variant<JwtClaims, JwtRefusal>& result) {
    if (const auto* claims = std::get_if<JwtClaims>(&result)) {
        require(!claims->subject.empty() && claims->subject.size() <= kMaxJwtSubject);
        require(claims->expires_at + kJwtClockSkew > kNow);
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    static const issuer::Pkey key = issuer::new_ed25519();
    static const Jwks keys = *Jwks::parse(issuer::key_set({issuer::jwk(key, "k")}));
    static const JwtRules rules = {.now = kNow, .issuers = {"i"}, .audience = "mana"};
    if (size == 0) {
        return 0;
    }
    const std::string_view text(reinterpret_cast<const char*>(data) + 1, size - 1);
    constexpr std::string_view kHeader = R"({"alg":"EdDSA","kid":"k"})";
    switch (data[0] % 5) {
        case 0:  // nobody can sign without the key
            require(std::holds_alternative<JwtRefusal>(verify_jwt(text, keys, rules)));
            break;
        case 1:
            check_claims(verify_jwt(issuer::signed_token(key, kHeader, text), keys, rules));
            break;
        case 2:
            check_claims(verify_jwt(
                issuer::signed_token(key, text, R"({"iss":"i","aud":"mana","sub":"u","exp":9e9})"),
                keys, rules));
            break;
        case 3:
            if (const auto parsed = Jwks::parse(text)) {
                require(parsed->keys().size() <= Jwks::kMaxKeys);
                check_claims(
                    verify_jwt(issuer::signed_token(
                                   key, kHeader, R"({"iss":"i","aud":"mana","sub":"u","exp":9e9})"),
                               *parsed, rules));
            }
            break;
        default: {
            static PageTickets tickets;
            static const std::string issued = tickets.issue("a key", kNow, kNow + 1);
            require(text == issued || !tickets.is_good(text, "a key", kNow));
            break;
        }
    }
    return 0;
}
