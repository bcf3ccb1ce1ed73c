#include "mana_ai/crypto/encrypted_value.hpp"

#include <array>
#include <cstdint>
#include <optional>

#include "mana_ai/crypto/base64.hpp"
#include "mana_ai/crypto/json_text.hpp"
#include "mana_ai/crypto/unavailable.hpp"
#include "openssl_scope.hpp"

namespace mana_ai::crypto {

namespace {

constexpr std::string_view kPrefix = "enc:1:";
constexpr std::size_t kIvSize = 12;
constexpr std::size_t kTagSize = 16;

// Fetching the algorithm costs more than opening a short value with it.
const EVP_CIPHER* aes_256_gcm() {
    static const CipherPtr cipher(EVP_CIPHER_fetch(nullptr, "AES-256-GCM", nullptr));
    if (cipher == nullptr) {
        throw CryptoUnavailable("AES-256-GCM is not available");
    }
    return cipher.get();
}

// Decrypts `sealed`, ciphertext and tag, in place, so that no second buffer has to be wiped. False
// if the tag is wrong; `sealed` must then not be used.
bool open_in_place(SecretBytes& sealed, std::span<const std::uint8_t> iv,
                   const MissionDataKey& key) {
    const ErrorQueueScope errors;
    const CipherContextPtr context(EVP_CIPHER_CTX_new());
    if (context == nullptr || EVP_DecryptInit_ex2(context.get(), aes_256_gcm(), key.bytes().data(),
                                                  iv.data(), nullptr) != 1) {
        throw CryptoUnavailable("AES-256-GCM could not be set up");
    }
    const std::size_t size = sealed.size() - kTagSize;
    int written = 0;
    int final_written = 0;
    if (EVP_CIPHER_CTX_ctrl(context.get(), EVP_CTRL_AEAD_SET_TAG, kTagSize, sealed.data() + size) !=
            1 ||
        EVP_DecryptUpdate(context.get(), sealed.data(), &written, sealed.data(),
                          static_cast<int>(size)) != 1 ||
        EVP_DecryptFinal_ex(context.get(), sealed.data() + written, &final_written) != 1) {
        return false;
    }
    sealed.truncate(size);
    return true;
}

}  // namespace

std::string_view to_string(ValueFailure failure) noexcept {
    switch (failure) {
        case ValueFailure::kMalformed:
            return "ciphertext-malformed";
        case ValueFailure::kTamperedOrWrongKey:
            return "ciphertext-tampered-or-wrong-key";
    }
    return "ciphertext-malformed";
}

bool is_encrypted(std::string_view text) noexcept {
    return text.starts_with(kPrefix);
}

std::variant<SecretBytes, ValueFailure> open_value(std::string_view text,
                                                   const MissionDataKey& key) {
    if (!is_encrypted(text) || text.size() > kMaxEncryptedValue) {
        return ValueFailure::kMalformed;
    }
    text.remove_prefix(kPrefix.size());
    const std::size_t dot = text.find('.');
    if (dot == std::string_view::npos) {
        return ValueFailure::kMalformed;
    }
    std::array<std::uint8_t, kIvSize> iv{};
    if (!decode_base64(text.substr(0, dot), iv)) {
        return ValueFailure::kMalformed;
    }
    const std::string_view base64 = text.substr(dot + 1);
    const std::optional<std::size_t> size = base64_decoded_size(base64);
    if (!size || *size < kTagSize) {
        return ValueFailure::kMalformed;
    }
    SecretBytes value(*size);
    if (!decode_base64(base64, {value.data(), value.size()})) {
        return ValueFailure::kMalformed;
    }
    if (key.empty() || !open_in_place(value, iv, key)) {
        return ValueFailure::kTamperedOrWrongKey;
    }
    if (!is_json(value.view())) {
        return ValueFailure::kMalformed;
    }
    return value;
}

}  // namespace mana_ai::crypto
