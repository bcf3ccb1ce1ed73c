// Whoever signs users' tokens: makes keys, a key set of them, and tokens, good ones and bad ones.
#pragma once

#include <openssl/bn.h>
#include <openssl/core_names.h>
#include <openssl/ec.h>
#include <openssl/evp.h>

#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "mana_ai/core/text/json.hpp"
#include "mana_ai/crypto/base64.hpp"

namespace mana_ai::crypto::issuer {

using Bytes = std::vector<std::uint8_t>;
using Pkey = std::shared_ptr<EVP_PKEY>;

inline Pkey owned(EVP_PKEY* key) {
    if (key == nullptr) {
        throw std::runtime_error("no key");
    }
    return {key, EVP_PKEY_free};
}

inline Pkey new_ed25519() {
    return owned(EVP_PKEY_Q_keygen(nullptr, nullptr, "ED25519"));
}
inline Pkey new_rsa(std::size_t bits) {
    return owned(EVP_PKEY_Q_keygen(nullptr, nullptr, "RSA", bits));
}
inline Pkey new_ec(const char* curve) {
    return owned(EVP_PKEY_Q_keygen(nullptr, nullptr, "EC", curve));
}

inline std::string base64url(std::string_view text) {
    return encode_base64url({reinterpret_cast<const std::uint8_t*>(text.data()), text.size()});
}

inline std::string number_member(EVP_PKEY* key, const char* name, int size = 0) {
    BIGNUM* number = nullptr;
    EVP_PKEY_get_bn_param(key, name, &number);
    Bytes bytes(static_cast<std::size_t>(size > 0 ? size : BN_num_bytes(number)));
    BN_bn2binpad(number, bytes.data(), static_cast<int>(bytes.size()));
    BN_free(number);
    return encode_base64url(bytes);
}

// The public half as a JSON Web Key.
inline core::Json jwk(const Pkey& key, const std::string& kid) {
    core::Json result = {{"kid", kid}, {"use", "sig"}};
    if (EVP_PKEY_is_a(key.get(), "ED25519")) {
        Bytes raw(32);
        std::size_t size = raw.size();
        EVP_PKEY_get_raw_public_key(key.get(), raw.data(), &size);
        result.update({{"kty", "OKP"}, {"crv", "Ed25519"}, {"x", encode_base64url(raw)}});
    } else if (EVP_PKEY_is_a(key.get(), "RSA")) {
        result.update({{"kty", "RSA"},
                       {"n", number_member(key.get(), OSSL_PKEY_PARAM_RSA_N)},
                       {"e", number_member(key.get(), OSSL_PKEY_PARAM_RSA_E)}});
    } else {
        result.update({{"kty", "EC"},
                       {"crv", "P-256"},
                       {"x", number_member(key.get(), OSSL_PKEY_PARAM_EC_PUB_X, 32)},
                       {"y", number_member(key.get(), OSSL_PKEY_PARAM_EC_PUB_Y, 32)}});
    }
    return result;
}

inline std::string key_set(const std::vector<core::Json>& keys) {
    return core::Json{{"keys", keys}}.dump();
}

inline Bytes sign(const Pkey& key, std::string_view text) {
    const bool ed25519 = EVP_PKEY_is_a(key.get(), "ED25519") != 0;
    const std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> context(EVP_MD_CTX_new(),
                                                                          EVP_MD_CTX_free);
    const auto* data = reinterpret_cast<const unsigned char*>(text.data());
    std::size_t size = 0;
    EVP_DigestSignInit_ex(context.get(), nullptr, ed25519 ? nullptr : "SHA256", nullptr, nullptr,
                          key.get(), nullptr);
    EVP_DigestSign(context.get(), nullptr, &size, data, text.size());
    Bytes signature(size);
    if (EVP_DigestSign(context.get(), signature.data(), &size, data, text.size()) != 1) {
        throw std::runtime_error("signing");
    }
    signature.resize(size);
    if (!EVP_PKEY_is_a(key.get(), "EC")) {
        return signature;
    }
    const unsigned char* der = signature.data();
    const std::unique_ptr<ECDSA_SIG, decltype(&ECDSA_SIG_free)> pair(
        d2i_ECDSA_SIG(nullptr, &der, static_cast<long>(size)), ECDSA_SIG_free);
    Bytes raw(64);
    BN_bn2binpad(ECDSA_SIG_get0_r(pair.get()), raw.data(), 32);
    BN_bn2binpad(ECDSA_SIG_get0_s(pair.get()), raw.data() + 32, 32);
    return raw;
}

// A token signed over exactly these texts of header and payload.
inline std::string signed_token(const Pkey& key, std::string_view header,
                                std::string_view payload) {
    const std::string text = base64url(header) + '.' + base64url(payload);
    return text + '.' + encode_base64url(sign(key, text));
}

inline std::string token(const Pkey& key, const core::Json& header, const core::Json& payload) {
    return signed_token(key, header.dump(), payload.dump());
}

// "Signed" with HMAC-SHA256 under any secret.
inline std::string hmac_token(std::string_view secret, const core::Json& header,
                              const core::Json& payload) {
    const std::string text = base64url(header.dump()) + '.' + base64url(payload.dump());
    Bytes mac(32);
    std::size_t size = 0;
    EVP_Q_mac(nullptr, "HMAC", nullptr, "SHA256", nullptr, secret.data(), secret.size(),
              reinterpret_cast<const unsigned char*>(text.data()), text.size(), mac.data(),
              mac.size(), &size);
    return text + '.' + encode_base64url(mac);
}

}  // namespace mana_ai::crypto::issuer
