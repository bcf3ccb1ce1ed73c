// What a client does and the server cannot: derive a mission's key, wrap it, encrypt values.
// docs/contract/inputs.md, Mission key grant. For tests and their tools only.
#pragma once

#include <openssl/core_names.h>
#include <openssl/evp.h>
#include <openssl/kdf.h>
#include <openssl/params.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/rsa.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "mana_ai/core/text/json.hpp"

namespace mana_ai::crypto::client {

using Bytes = std::vector<std::uint8_t>;

inline void require(bool done, const char* step) {
    if (!done) {
        throw std::runtime_error(step);
    }
}

inline std::string encode_base64(std::span<const std::uint8_t> bytes) {
    std::string text((bytes.size() + 2) / 3 * 4 + 1, '\0');  // OpenSSL adds a NUL
    const int size = EVP_EncodeBlock(reinterpret_cast<unsigned char*>(text.data()), bytes.data(),
                                     static_cast<int>(bytes.size()));
    text.resize(static_cast<std::size_t>(size));
    return text;
}

inline Bytes from_hex(std::string_view hex) {
    Bytes bytes;
    for (std::size_t i = 0; i + 1 < hex.size(); i += 2) {
        const auto pair = std::string(hex.substr(i, 2));
        bytes.push_back(static_cast<std::uint8_t>(std::stoi(pair, nullptr, 16)));
    }
    return bytes;
}

// The info of the derivation: what the key is for, the same whatever the order of the lists.
inline std::string canonical_info(std::vector<std::string> tables,
                                  std::vector<std::string> record_ids) {
    const auto sorted_and_joined = [](std::vector<std::string>& names) {
        std::sort(names.begin(), names.end());
        std::string joined;
        for (const std::string& name : names) {
            joined += (joined.empty() ? "" : ",") + name;
        }
        return joined;
    };
    return "mana-ai-mission-grant:v1:tables=" + sorted_and_joined(tables) +
           ":ids=" + sorted_and_joined(record_ids);
}

// HKDF-SHA256 of the user's master key.
inline Bytes derive_mission_data_key(std::span<const std::uint8_t> master_key,
                                     std::string_view mission_id, std::string_view info) {
    const std::unique_ptr<EVP_KDF, decltype(&EVP_KDF_free)> hkdf(
        EVP_KDF_fetch(nullptr, "HKDF", nullptr), EVP_KDF_free);
    const std::unique_ptr<EVP_KDF_CTX, decltype(&EVP_KDF_CTX_free)> context(
        EVP_KDF_CTX_new(hkdf.get()), EVP_KDF_CTX_free);
    const auto octets = [](const char* name, const void* data, std::size_t size) {
        return OSSL_PARAM_construct_octet_string(name, const_cast<void*>(data), size);
    };
    char digest[] = "SHA256";
    const std::array<OSSL_PARAM, 5> params = {
        OSSL_PARAM_construct_utf8_string(OSSL_KDF_PARAM_DIGEST, digest, 0),
        octets(OSSL_KDF_PARAM_KEY, master_key.data(), master_key.size()),
        octets(OSSL_KDF_PARAM_SALT, mission_id.data(), mission_id.size()),
        octets(OSSL_KDF_PARAM_INFO, info.data(), info.size()), OSSL_PARAM_construct_end()};
    Bytes key(32);
    require(EVP_KDF_derive(context.get(), key.data(), key.size(), params.data()) == 1, "HKDF");
    return key;
}

// RSA-OAEP for the holder of the private key; `digest` for its hash and for MGF1.
inline Bytes wrap(std::span<const std::uint8_t> key, const std::string& public_pem,
                  const char* digest = "SHA256") {
    const std::unique_ptr<BIO, decltype(&BIO_free)> bio(
        BIO_new_mem_buf(public_pem.data(), static_cast<int>(public_pem.size())), BIO_free);
    const std::unique_ptr<EVP_PKEY, decltype(&EVP_PKEY_free)> pkey(
        PEM_read_bio_PUBKEY(bio.get(), nullptr, nullptr, nullptr), EVP_PKEY_free);
    require(pkey != nullptr, "public key");
    const std::unique_ptr<EVP_PKEY_CTX, decltype(&EVP_PKEY_CTX_free)> context(
        EVP_PKEY_CTX_new_from_pkey(nullptr, pkey.get(), nullptr), EVP_PKEY_CTX_free);
    Bytes wrapped(static_cast<std::size_t>(EVP_PKEY_get_size(pkey.get())));
    std::size_t size = wrapped.size();
    require(EVP_PKEY_encrypt_init(context.get()) == 1 &&
                EVP_PKEY_CTX_set_rsa_padding(context.get(), RSA_PKCS1_OAEP_PADDING) == 1 &&
                EVP_PKEY_CTX_set_rsa_oaep_md_name(context.get(), digest, nullptr) == 1 &&
                EVP_PKEY_CTX_set_rsa_mgf1_md_name(context.get(), digest, nullptr) == 1 &&
                EVP_PKEY_encrypt(context.get(), wrapped.data(), &size, key.data(), key.size()) == 1,
            "wrap");
    wrapped.resize(size);
    return wrapped;
}

// An encrypted value around any plaintext, JSON or not.
inline std::string seal(std::string_view plaintext, std::span<const std::uint8_t> key,
                        std::size_t iv_size = 12) {
    Bytes iv(iv_size);
    require(RAND_bytes(iv.data(), static_cast<int>(iv.size())) == 1, "random bytes");
    const std::unique_ptr<EVP_CIPHER_CTX, decltype(&EVP_CIPHER_CTX_free)> context(
        EVP_CIPHER_CTX_new(), EVP_CIPHER_CTX_free);
    Bytes sealed(plaintext.size() + 16);
    int written = 0;
    int final_written = 0;
    require(EVP_EncryptInit_ex2(context.get(), EVP_aes_256_gcm(), nullptr, nullptr, nullptr) == 1 &&
                EVP_CIPHER_CTX_ctrl(context.get(), EVP_CTRL_AEAD_SET_IVLEN,
                                    static_cast<int>(iv.size()), nullptr) == 1 &&
                EVP_EncryptInit_ex2(context.get(), nullptr, key.data(), iv.data(), nullptr) == 1 &&
                EVP_EncryptUpdate(context.get(), sealed.data(), &written,
                                  reinterpret_cast<const unsigned char*>(plaintext.data()),
                                  static_cast<int>(plaintext.size())) == 1 &&
                EVP_EncryptFinal_ex(context.get(), sealed.data() + written, &final_written) == 1 &&
                EVP_CIPHER_CTX_ctrl(context.get(), EVP_CTRL_AEAD_GET_TAG, 16,
                                    sealed.data() + plaintext.size()) == 1,
            "seal");
    return "enc:1:" + encode_base64(iv) + "." + encode_base64(sealed);
}

// mission.grant as a client sends it.
inline core::Json make_grant(std::span<const std::uint8_t> wrapped_key, std::string_view mission_id,
                             const std::vector<std::string>& tables,
                             const std::vector<std::string>& record_ids) {
    return {{"wrappedKey", encode_base64(wrapped_key)},
            {"derivation",
             {{"version", "v1"},
              {"missionId", mission_id},
              {"tables", tables},
              {"recordIds", record_ids}}},
            {"issuedAt", "2026-04-15T08:00:00.000Z"},
            {"expiresAt", "2026-04-22T08:00:00.000Z"}};
}

}  // namespace mana_ai::crypto::client
