#include "mana_ai/crypto/jwks.hpp"

#include <openssl/bn.h>
#include <openssl/core_names.h>
#include <openssl/ec.h>
#include <openssl/param_build.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <new>
#include <utility>

#include "mana_ai/core/text/json.hpp"
#include "mana_ai/crypto/base64.hpp"
#include "mana_ai/crypto/unavailable.hpp"
#include "openssl_scope.hpp"

namespace mana_ai::crypto {

namespace {

using Bytes = std::vector<std::uint8_t>;
using ParamBuilder = std::unique_ptr<OSSL_PARAM_BLD, FreeWith<OSSL_PARAM_BLD_free>>;
using Params = std::unique_ptr<OSSL_PARAM, FreeWith<OSSL_PARAM_free>>;
using Number = std::unique_ptr<BIGNUM, FreeWith<BN_free>>;

constexpr std::size_t kEd25519Size = 32;
constexpr std::size_t kP256Size = 32;
constexpr int kMinRsaBits = 2048;
// The cost of verifying a signature grows with the square of this.
constexpr int kMaxRsaBits = 8192;

struct KeyType {
    JwtAlgorithm algorithm;
    std::string_view name;
};
constexpr std::array<KeyType, 3> kAlgorithms = {{{JwtAlgorithm::kEdDsa, "EdDSA"},
                                                 {JwtAlgorithm::kRs256, "RS256"},
                                                 {JwtAlgorithm::kEs256, "ES256"}}};

std::optional<Bytes> bytes_member(const core::Json& key, const char* name) {
    const std::string_view text = core::string_or(key, name, {});
    return text.empty() ? std::nullopt : decode_base64url(text);
}

// nullptr if OpenSSL refuses the numbers: a point that is not on its curve, for example.
PkeyPtr pkey_from(const char* type, OSSL_PARAM_BLD* builder) {
    const Params params(OSSL_PARAM_BLD_to_param(builder));
    const PkeyContextPtr context(EVP_PKEY_CTX_new_from_name(nullptr, type, nullptr));
    if (params == nullptr || context == nullptr || EVP_PKEY_fromdata_init(context.get()) != 1) {
        throw CryptoUnavailable("checking signatures is not available");
    }
    EVP_PKEY* pkey = nullptr;
    if (EVP_PKEY_fromdata(context.get(), &pkey, EVP_PKEY_PUBLIC_KEY, params.get()) != 1) {
        return nullptr;
    }
    PkeyPtr result(pkey);
    const PkeyContextPtr check(EVP_PKEY_CTX_new_from_pkey(nullptr, pkey, nullptr));
    if (check == nullptr || EVP_PKEY_public_check(check.get()) != 1) {
        return nullptr;
    }
    return result;
}

ParamBuilder new_builder() {
    ParamBuilder builder(OSSL_PARAM_BLD_new());
    if (builder == nullptr) {
        throw std::bad_alloc();
    }
    return builder;
}

PkeyPtr ed25519_key(const core::Json& key) {
    const auto x = bytes_member(key, "x");
    if (core::string_or(key, "crv", {}) != "Ed25519" || !x || x->size() != kEd25519Size) {
        return nullptr;
    }
    return PkeyPtr(
        EVP_PKEY_new_raw_public_key_ex(nullptr, "ED25519", nullptr, x->data(), x->size()));
}

PkeyPtr rsa_key(const core::Json& key) {
    const auto n = bytes_member(key, "n");
    const auto e = bytes_member(key, "e");
    if (!n || !e || n->size() > kMaxRsaBits / 8 + 1 || e->size() > 8) {
        return nullptr;
    }
    const Number modulus(BN_bin2bn(n->data(), static_cast<int>(n->size()), nullptr));
    const Number exponent(BN_bin2bn(e->data(), static_cast<int>(e->size()), nullptr));
    if (modulus == nullptr || exponent == nullptr) {
        throw std::bad_alloc();
    }
    const int bits = BN_num_bits(modulus.get());
    if (bits < kMinRsaBits || bits > kMaxRsaBits || !BN_is_odd(modulus.get()) ||
        !BN_is_odd(exponent.get()) || BN_is_one(exponent.get())) {
        return nullptr;
    }
    const ParamBuilder builder = new_builder();
    if (OSSL_PARAM_BLD_push_BN(builder.get(), OSSL_PKEY_PARAM_RSA_N, modulus.get()) != 1 ||
        OSSL_PARAM_BLD_push_BN(builder.get(), OSSL_PKEY_PARAM_RSA_E, exponent.get()) != 1) {
        throw std::bad_alloc();
    }
    return pkey_from("RSA", builder.get());
}

PkeyPtr p256_key(const core::Json& key) {
    const auto x = bytes_member(key, "x");
    const auto y = bytes_member(key, "y");
    if (core::string_or(key, "crv", {}) != "P-256" || !x || !y || x->size() != kP256Size ||
        y->size() != kP256Size) {
        return nullptr;
    }
    Bytes point = {POINT_CONVERSION_UNCOMPRESSED};
    point.insert(point.end(), x->begin(), x->end());
    point.insert(point.end(), y->begin(), y->end());
    const ParamBuilder builder = new_builder();
    if (OSSL_PARAM_BLD_push_utf8_string(builder.get(), OSSL_PKEY_PARAM_GROUP_NAME, "P-256", 0) !=
            1 ||
        OSSL_PARAM_BLD_push_octet_string(builder.get(), OSSL_PKEY_PARAM_PUB_KEY, point.data(),
                                         point.size()) != 1) {
        throw std::bad_alloc();
    }
    return pkey_from("EC", builder.get());
}

// Whether the key may verify signatures, as far as it states its use.
bool is_for_signatures(const core::Json& key) {
    if (key.contains("use") && core::string_or(key, "use", {}) != "sig") {
        return false;
    }
    const auto operations = key.find("key_ops");
    return operations == key.end() ||
           (operations->is_array() &&
            std::ranges::any_of(*operations, [](const core::Json& o) { return o == "verify"; }));
}

std::optional<JwtKey> parse_key(const core::Json& key) {
    if (!key.is_object() || !is_for_signatures(key)) {
        return std::nullopt;
    }
    const std::string_view type = core::string_or(key, "kty", {});
    JwtKey result;
    PkeyPtr pkey;
    if (type == "OKP") {
        result.algorithm = JwtAlgorithm::kEdDsa;
        pkey = ed25519_key(key);
    } else if (type == "RSA") {
        result.algorithm = JwtAlgorithm::kRs256;
        pkey = rsa_key(key);
    } else if (type == "EC") {
        result.algorithm = JwtAlgorithm::kEs256;
        pkey = p256_key(key);
    }
    if (pkey == nullptr) {
        return std::nullopt;
    }
    if (key.contains("alg") && jwt_algorithm(core::string_or(key, "alg", {})) != result.algorithm) {
        return std::nullopt;
    }
    if (const auto kid = key.find("kid"); kid != key.end()) {
        if (!kid->is_string()) {
            return std::nullopt;
        }
        result.kid = kid->get<std::string>();
    }
    result.pkey = std::shared_ptr<EVP_PKEY>(std::move(pkey));
    return result;
}

}  // namespace

std::optional<JwtAlgorithm> jwt_algorithm(std::string_view name) noexcept {
    for (const KeyType& type : kAlgorithms) {
        if (type.name == name) {
            return type.algorithm;
        }
    }
    return std::nullopt;
}

std::optional<Jwks> Jwks::parse(std::string_view document) {
    if (document.size() > kMaxDocument) {
        return std::nullopt;
    }
    const auto json = core::parse_json(document);
    if (!json || !json->is_object()) {
        return std::nullopt;
    }
    const auto keys = json->find("keys");
    if (keys == json->end() || !keys->is_array()) {
        return std::nullopt;
    }
    const ErrorQueueScope errors;
    Jwks result;
    for (const core::Json& key : *keys) {
        if (result.keys_.size() == kMaxKeys) {
            break;
        }
        if (auto parsed = parse_key(key)) {
            result.keys_.push_back(std::move(*parsed));
        }
    }
    return result;
}

}  // namespace mana_ai::crypto
