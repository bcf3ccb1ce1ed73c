#include "mana_ai/crypto/jwt.hpp"

#include <gtest/gtest.h>
#include <openssl/pem.h>

#include <memory>
#include <ostream>
#include <string>
#include <variant>
#include <vector>

#include "token_issuer.hpp"

namespace mana_ai::crypto {

void PrintTo(JwtRefusal refusal, std::ostream* out) {
    *out << to_string(refusal);
}

namespace {

using core::Json;
using issuer::Pkey;

constexpr std::int64_t kNowSeconds = 1'776'300'000;

const Pkey& ed25519() {
    static const Pkey key = issuer::new_ed25519();
    return key;
}
const Pkey& rsa() {
    static const Pkey key = issuer::new_rsa(2048);
    return key;
}
const Pkey& ec() {
    static const Pkey key = issuer::new_ec("P-256");
    return key;
}

Json payload() {
    return {{"iss", "https://auth.example"},
            {"aud", "mana"},
            {"sub", "user-1"},
            {"exp", kNowSeconds + 300}};
}

Json header(const char* algorithm = "EdDSA", const char* kid = "ed") {
    return {{"alg", algorithm}, {"kid", kid}, {"typ", "JWT"}};
}

Jwks all_keys() {
    return *Jwks::parse(issuer::key_set(
        {issuer::jwk(ed25519(), "ed"), issuer::jwk(rsa(), "rsa"), issuer::jwk(ec(), "ec")}));
}

JwtRules rules() {
    return {.now = kNowSeconds * core::kMicrosPerSecond,
            .issuers = {"https://auth.example", "https://other.example"},
            .audience = "mana"};
}

// The subject, or why the token was refused.
std::string outcome(const std::string& token, const Jwks& keys = all_keys()) {
    const auto result = verify_jwt(token, keys, rules());
    if (const auto* refusal = std::get_if<JwtRefusal>(&result)) {
        return std::string(to_string(*refusal));
    }
    return "user " + std::get<JwtClaims>(result).subject;
}

std::string with(const char* claim, const Json& value) {
    Json claims = payload();
    claims[claim] = value;
    return outcome(issuer::token(ed25519(), header(), claims));
}

std::string without(const char* claim) {
    Json claims = payload();
    claims.erase(claim);
    return outcome(issuer::token(ed25519(), header(), claims));
}

TEST(Jwt, AcceptsEachAlgorithmWithItsKey) {
    EXPECT_EQ(outcome(issuer::token(ed25519(), header(), payload())), "user user-1");
    EXPECT_EQ(outcome(issuer::token(rsa(), header("RS256", "rsa"), payload())), "user user-1");
    EXPECT_EQ(outcome(issuer::token(ec(), header("ES256", "ec"), payload())), "user user-1");
}

TEST(Jwt, SaysWhenTheTokenExpires) {
    const auto result =
        verify_jwt(issuer::token(ed25519(), header(), payload()), all_keys(), rules());
    EXPECT_EQ(std::get<JwtClaims>(result).expires_at, (kNowSeconds + 300) * core::kMicrosPerSecond);
}

TEST(Jwt, RefusesAlgorithmNone) {
    for (const char* none : {"none", "None", "NONE", ""}) {
        const std::string text = issuer::base64url(header(none).dump()) + '.' +
                                 issuer::base64url(payload().dump()) + '.';
        EXPECT_EQ(outcome(text), "unsupported-algorithm") << none;
    }
    const std::string unsigned_one =
        issuer::base64url(header().dump()) + '.' + issuer::base64url(payload().dump()) + '.';
    EXPECT_EQ(outcome(unsigned_one), "bad-signature");
}

TEST(Jwt, RefusesHmacWithThePublicKeyAsSecret) {
    std::unique_ptr<BIO, decltype(&BIO_free)> bio(BIO_new(BIO_s_mem()), BIO_free);
    ASSERT_EQ(PEM_write_bio_PUBKEY(bio.get(), rsa().get()), 1);
    char* pem = nullptr;
    const long size = BIO_get_mem_data(bio.get(), &pem);
    const std::string secret(pem, static_cast<std::size_t>(size));
    EXPECT_EQ(outcome(issuer::hmac_token(secret, header("HS256", "rsa"), payload())),
              "unsupported-algorithm");
    EXPECT_EQ(outcome(issuer::hmac_token(secret, header("RS256", "rsa"), payload())),
              "bad-signature");
    EXPECT_EQ(outcome(issuer::hmac_token(secret, header("EdDSA", "ed"), payload())),
              "bad-signature");
}

TEST(Jwt, RefusesSymmetricKeysOfTheKeySet) {
    const std::string secret = "0123456789abcdef0123456789abcdef";
    const Json symmetric = {
        {"kty", "oct"}, {"kid", "oct"}, {"alg", "HS256"}, {"k", issuer::base64url(secret)}};
    const Jwks keys = *Jwks::parse(issuer::key_set({symmetric}));
    EXPECT_TRUE(keys.keys().empty());
    EXPECT_EQ(outcome(issuer::hmac_token(secret, header("HS256", "oct"), payload()), keys),
              "unsupported-algorithm");
}

TEST(Jwt, RefusesOtherAlgorithms) {
    for (const char* other : {"HS256", "HS512", "RS512", "PS256", "ES384", "ES256K", "eddsa"}) {
        EXPECT_EQ(outcome(issuer::token(ed25519(), header(other), payload())),
                  "unsupported-algorithm")
            << other;
    }
    Json odd = header();
    odd["alg"] = 7;
    EXPECT_EQ(outcome(issuer::token(ed25519(), odd, payload())), "unsupported-algorithm");
    odd.erase("alg");
    EXPECT_EQ(outcome(issuer::token(ed25519(), odd, payload())), "unsupported-algorithm");
}

TEST(Jwt, RefusesAnAlgorithmThatDoesNotFitTheKey) {
    EXPECT_EQ(outcome(issuer::token(rsa(), header("EdDSA", "rsa"), payload())),
              "algorithm-mismatch");
    EXPECT_EQ(outcome(issuer::token(ec(), header("RS256", "ec"), payload())), "algorithm-mismatch");
    EXPECT_EQ(outcome(issuer::token(ed25519(), header("ES256", "ed"), payload())),
              "algorithm-mismatch");
}

TEST(Jwt, RefusesTheSignatureOfAnotherKey) {
    EXPECT_EQ(outcome(issuer::token(issuer::new_ed25519(), header(), payload())), "bad-signature");
    EXPECT_EQ(outcome(issuer::token(issuer::new_rsa(2048), header("RS256", "rsa"), payload())),
              "bad-signature");
    EXPECT_EQ(outcome(issuer::token(issuer::new_ec("P-256"), header("ES256", "ec"), payload())),
              "bad-signature");
}

TEST(Jwt, RefusesAnotherPayloadUnderTheSameSignature) {
    for (const auto& [key, algorithm, kid] :
         {std::tuple{ed25519(), "EdDSA", "ed"}, {rsa(), "RS256", "rsa"}, {ec(), "ES256", "ec"}}) {
        const std::string good = issuer::token(key, header(algorithm, kid), payload());
        Json claims = payload();
        claims["sub"] = "user-2";
        const std::string changed = good.substr(0, good.find('.') + 1) +
                                    issuer::base64url(claims.dump()) + good.substr(good.rfind('.'));
        EXPECT_EQ(outcome(changed), "bad-signature") << algorithm;
    }
}

TEST(Jwt, RefusesEcdsaSignaturesThatAreNoPairOfNumbers) {
    const std::string text = issuer::base64url(header("ES256", "ec").dump()) + '.' +
                             issuer::base64url(payload().dump()) + '.';
    EXPECT_EQ(outcome(text + issuer::base64url(std::string(64, '\0'))), "bad-signature");
    EXPECT_EQ(outcome(text + issuer::base64url(std::string(64, '\xFF'))), "bad-signature");
    EXPECT_EQ(outcome(text + issuer::base64url(std::string(63, '\1'))), "bad-signature");
    EXPECT_EQ(outcome(text), "bad-signature");
}

TEST(Jwt, ChoosesTheKeyByItsId) {
    const Pkey other = issuer::new_ed25519();
    const Jwks keys =
        *Jwks::parse(issuer::key_set({issuer::jwk(other, "old"), issuer::jwk(ed25519(), "ed")}));
    EXPECT_EQ(outcome(issuer::token(ed25519(), header("EdDSA", "ed"), payload()), keys),
              "user user-1");
    EXPECT_EQ(outcome(issuer::token(other, header("EdDSA", "ed"), payload()), keys),
              "bad-signature");
    EXPECT_EQ(outcome(issuer::token(ed25519(), header("EdDSA", "newer"), payload()), keys),
              "unknown-key");
    EXPECT_EQ(outcome(issuer::token(ed25519(), header("EdDSA", ""), payload()), keys),
              "unknown-key");
}

TEST(Jwt, NeedsNoKeyIdWhenThereIsOneKey) {
    Json no_kid = header();
    no_kid.erase("kid");
    const std::string token = issuer::token(ed25519(), no_kid, payload());
    const Jwks one = *Jwks::parse(issuer::key_set({issuer::jwk(ed25519(), "ed")}));
    EXPECT_EQ(outcome(token, one), "user user-1");
    EXPECT_EQ(outcome(token), "ambiguous-key");
    EXPECT_EQ(outcome(token, Jwks()), "unknown-key");
    no_kid["kid"] = 7;
    EXPECT_EQ(outcome(issuer::token(ed25519(), no_kid, payload()), one), "malformed");
}

TEST(Jwt, RefusesCriticalExtensions) {
    Json critical = header();
    critical["crit"] = {"exp"};
    EXPECT_EQ(outcome(issuer::token(ed25519(), critical, payload())), "critical-header");
}

TEST(Jwt, ChecksTheAudience) {
    EXPECT_EQ(with("aud", Json::array({"other", "mana"})), "user user-1");
    EXPECT_EQ(with("aud", "other"), "wrong-audience");
    EXPECT_EQ(with("aud", "mana2"), "wrong-audience");
    EXPECT_EQ(with("aud", Json::array()), "wrong-audience");
    EXPECT_EQ(with("aud", Json::array({"other", 7})), "wrong-audience");
    EXPECT_EQ(with("aud", {{"mana", true}}), "wrong-audience");
    EXPECT_EQ(with("aud", nullptr), "wrong-audience");
    EXPECT_EQ(without("aud"), "wrong-audience");
}

TEST(Jwt, ChecksTheIssuer) {
    EXPECT_EQ(with("iss", "https://other.example"), "user user-1");
    EXPECT_EQ(with("iss", "https://auth.example/"), "wrong-issuer");
    EXPECT_EQ(with("iss", Json::array({"https://auth.example"})), "wrong-issuer");
    EXPECT_EQ(without("iss"), "wrong-issuer");
}

TEST(Jwt, ChecksTheTimesWithAMinuteOfClockSkew) {
    EXPECT_EQ(with("exp", kNowSeconds - 59), "user user-1");
    EXPECT_EQ(with("exp", kNowSeconds - 60), "expired");
    EXPECT_EQ(with("exp", static_cast<double>(kNowSeconds) - 59.5), "user user-1");
    EXPECT_EQ(with("exp", 1e300), "user user-1");
    EXPECT_EQ(with("exp", -1), "malformed");
    EXPECT_EQ(with("exp", std::to_string(kNowSeconds + 300)), "malformed");
    EXPECT_EQ(with("exp", nullptr), "malformed");
    EXPECT_EQ(without("exp"), "no-expiry");
    EXPECT_EQ(with("nbf", kNowSeconds + 60), "user user-1");
    EXPECT_EQ(with("nbf", kNowSeconds + 61), "not-yet-valid");
    EXPECT_EQ(with("nbf", 1e300), "not-yet-valid");
    EXPECT_EQ(with("nbf", "now"), "malformed");
}

TEST(Jwt, NeedsASubjectThatCanBeAUser) {
    EXPECT_EQ(without("sub"), "no-subject");
    EXPECT_EQ(with("sub", ""), "no-subject");
    EXPECT_EQ(with("sub", 7), "no-subject");
    EXPECT_EQ(with("sub", nullptr), "no-subject");
    EXPECT_EQ(with("sub", Json::array({"user-1"})), "no-subject");
    EXPECT_EQ(with("sub", std::string("user-1\0", 7)), "no-subject");
    EXPECT_EQ(with("sub", "user\n1"), "no-subject");
    EXPECT_EQ(with("sub", std::string(1001, 'u')), "no-subject");
    EXPECT_EQ(with("sub", std::string(1000, 'u')), "user " + std::string(1000, 'u'));
}

TEST(Jwt, RefusesGarbage) {
    const std::string good = issuer::token(ed25519(), header(), payload());
    const std::string body = good.substr(0, good.rfind('.'));
    for (const std::string& text :
         {std::string(), std::string("."), std::string(".."), std::string("..."),
          std::string("a.b.c"), body, good + ".", good + ".x", good + "=", good + " ", "." + good,
          "Bearer " + good, std::string(100, '.'), std::string("e30.e30")}) {
        EXPECT_EQ(outcome(text), "malformed") << text;
    }
    EXPECT_EQ(outcome(issuer::signed_token(ed25519(), "[]", payload().dump())), "malformed");
    EXPECT_EQ(outcome(issuer::signed_token(ed25519(), "{", payload().dump())), "malformed");
    EXPECT_EQ(outcome(issuer::signed_token(ed25519(), header().dump(), "[]")), "malformed");
    EXPECT_EQ(outcome(issuer::signed_token(ed25519(), header().dump(), "\xFF")), "malformed");
}

TEST(Jwt, RefusesHugeTokensWithoutLookingAtThem) {
    Json claims = payload();
    claims["x"] = std::string(kMaxJwt, 'x');
    EXPECT_EQ(outcome(issuer::token(ed25519(), header(), claims)), "too-large");
    claims["x"] = std::string(kMaxJwt / 2, 'x');
    EXPECT_EQ(outcome(issuer::token(ed25519(), header(), claims)), "user user-1");
}

// ---------------------------------------------------------------- key sets

std::size_t usable(const Json& key) {
    return Jwks::parse(issuer::key_set({key}))->keys().size();
}

TEST(Jwks, TakesOnlyKeysForSignatures) {
    Json key = issuer::jwk(rsa(), "k");
    EXPECT_EQ(usable(key), 1U);
    key["use"] = "enc";
    EXPECT_EQ(usable(key), 0U);
    key.erase("use");
    EXPECT_EQ(usable(key), 1U);
    key["key_ops"] = {"verify"};
    EXPECT_EQ(usable(key), 1U);
    key["key_ops"] = {"encrypt"};
    EXPECT_EQ(usable(key), 0U);
    key.erase("key_ops");
    key["alg"] = "RS256";
    EXPECT_EQ(usable(key), 1U);
    for (const char* other : {"RS512", "EdDSA", "HS256", "RSA-OAEP", "none"}) {
        key["alg"] = other;
        EXPECT_EQ(usable(key), 0U) << other;
    }
}

TEST(Jwks, LeavesOutKeysThatAreTooWeakOrNone) {
    EXPECT_EQ(usable(issuer::jwk(issuer::new_rsa(1024), "k")), 0U);
    Json key = issuer::jwk(rsa(), "k");
    key["e"] = "AQ";  // 1
    EXPECT_EQ(usable(key), 0U);
    key["e"] = "Ag";  // 2
    EXPECT_EQ(usable(key), 0U);
    key = issuer::jwk(ec(), "k");
    key["y"] = key["x"];  // not on the curve
    EXPECT_EQ(usable(key), 0U);
    key = issuer::jwk(ec(), "k");
    key["crv"] = "P-384";
    EXPECT_EQ(usable(key), 0U);
    key = issuer::jwk(ed25519(), "k");
    key["crv"] = "X25519";
    EXPECT_EQ(usable(key), 0U);
    key["crv"] = "Ed25519";
    key["x"] = "AAAA";
    EXPECT_EQ(usable(key), 0U);
    key = issuer::jwk(ed25519(), "k");
    key["kid"] = 7;
    EXPECT_EQ(usable(key), 0U);
    EXPECT_EQ(usable("key"), 0U);
    EXPECT_EQ(usable(Json::object()), 0U);
}

TEST(Jwks, OneBadKeyDoesNotSpoilTheOthers) {
    const auto keys = Jwks::parse(issuer::key_set({7, issuer::jwk(ed25519(), "ed")}));
    ASSERT_EQ(keys->keys().size(), 1U);
    EXPECT_EQ(keys->keys().front().kid, "ed");
}

TEST(Jwks, RefusesWhatIsNoKeySet) {
    for (const char* text : {"", "[]", "{}", "7", "{\"keys\":{}}", "{\"keys\":[}", "<html>"}) {
        EXPECT_FALSE(Jwks::parse(text)) << text;
    }
    EXPECT_FALSE(Jwks::parse(std::string(Jwks::kMaxDocument + 1, ' ')));
    EXPECT_TRUE(Jwks::parse("{\"keys\":[]}"));
}

TEST(Jwks, TakesABoundedNumberOfKeys) {
    const std::vector<Json> many(100, issuer::jwk(ed25519(), "ed"));
    EXPECT_EQ(Jwks::parse(issuer::key_set(many))->keys().size(), Jwks::kMaxKeys);
}

}  // namespace
}  // namespace mana_ai::crypto
