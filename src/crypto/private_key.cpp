#include "mana_ai/crypto/private_key.hpp"
#include "mana_ai/crypto/digest.hpp"

#include <openssl/asn1.h>
#include <openssl/bio.h>
#include <openssl/core_names.h>
#include <openssl/params.h>
#include <openssl/pem.h>
#include <openssl/rsa.h>

#include <algorithm>
#include <bit>
#include <memory>
#include <new>
#include <utility>

#include "mana_ai/crypto/base64.hpp"
#include "mana_ai/crypto/unavailable.hpp"
#include "openssl_scope.hpp"

namespace mana_ai::crypto {

namespace {

constexpr PrivateKeyError kNotPkcs8{"does not hold a private key in PKCS#8 PEM format"};
constexpr PrivateKeyError kNotRsa2048{"does not hold an RSA key of 2048 bits"};
constexpr PrivateKeyError kInconsistent{"holds an RSA key whose parts do not fit together"};

constexpr std::string_view kBegin = "-----BEGIN PRIVATE KEY-----";
constexpr std::string_view kEnd = "-----END PRIVATE KEY-----";

// The object identifier rsaEncryption, 1.2.840.113549.1.1.1.
constexpr std::array<std::uint8_t, 9> kRsaEncryption = {0x2A, 0x86, 0x48, 0x86, 0xF7,
                                                        0x0D, 0x01, 0x01, 0x01};

bool is_space(char c) noexcept {
    return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

// Walks DER in place; OpenSSL's own decoders leave unwiped copies of the key on the heap.
class DerWalker {
 public:
    explicit DerWalker(std::span<const std::uint8_t> der) noexcept : rest_(der) {}

    // Moves past the next element, which must have this universal tag, and returns its content.
    std::optional<std::span<const std::uint8_t>> take(int wanted_tag) noexcept {
        const unsigned char* at = rest_.data();
        long length = 0;
        int tag = 0;
        int tag_class = 0;
        if (rest_.empty()) {
            return std::nullopt;
        }
        // Bit 7 of the result: an error; bit 0: a length that DER does not have.
        const int form =
            ASN1_get_object(&at, &length, &tag, &tag_class, static_cast<long>(rest_.size()));
        const bool constructed = (form & V_ASN1_CONSTRUCTED) != 0;
        if ((form & 0x81) != 0 || tag != wanted_tag || tag_class != V_ASN1_UNIVERSAL ||
            constructed != (wanted_tag == V_ASN1_SEQUENCE)) {
            return std::nullopt;
        }
        const auto header = static_cast<std::size_t>(at - rest_.data());
        const auto content = rest_.subspan(header, static_cast<std::size_t>(length));
        rest_ = rest_.subspan(header + content.size());
        return content;
    }

    bool at_end() const noexcept { return rest_.empty(); }

 private:
    std::span<const std::uint8_t> rest_;
};

bool is_zero(std::optional<std::span<const std::uint8_t>> integer) noexcept {
    return integer && integer->size() == 1 && integer->front() == 0;
}

// OpenSSL wipes its copy of the key when it is freed.
PkeyPtr pkey_from(OSSL_PARAM* params, int selection) {
    const PkeyContextPtr context(EVP_PKEY_CTX_new_from_name(nullptr, "RSA", nullptr));
    EVP_PKEY* pkey = nullptr;
    if (context == nullptr || EVP_PKEY_fromdata_init(context.get()) != 1) {
        throw CryptoUnavailable("RSA is not available");
    }
    if (EVP_PKEY_fromdata(context.get(), &pkey, selection, params) != 1) {
        return nullptr;
    }
    return PkeyPtr(pkey);
}

bool set_oaep(EVP_PKEY_CTX* context) noexcept {
    return EVP_PKEY_CTX_set_rsa_padding(context, RSA_PKCS1_OAEP_PADDING) == 1 &&
           EVP_PKEY_CTX_set_rsa_oaep_md_name(context, "SHA256", nullptr) == 1 &&
           EVP_PKEY_CTX_set_rsa_mgf1_md_name(context, "SHA256", nullptr) == 1;
}

}  // namespace

// Passes a key's numbers to OpenSSL.
class KeyMaterial {
 public:
    // nullptr if OpenSSL refuses the numbers.
    static PkeyPtr build(const PrivateKey& key, bool with_private) {
        static constexpr std::array<const char*, PrivateKey::kNumbers> names = {
            OSSL_PKEY_PARAM_RSA_N,         OSSL_PKEY_PARAM_RSA_E,
            OSSL_PKEY_PARAM_RSA_D,         OSSL_PKEY_PARAM_RSA_FACTOR1,
            OSSL_PKEY_PARAM_RSA_FACTOR2,   OSSL_PKEY_PARAM_RSA_EXPONENT1,
            OSSL_PKEY_PARAM_RSA_EXPONENT2, OSSL_PKEY_PARAM_RSA_COEFFICIENT1};
        std::array<OSSL_PARAM, PrivateKey::kNumbers + 1> params{};
        const std::size_t count = with_private ? PrivateKey::kNumbers : PrivateKey::kE + 1;
        for (std::size_t i = 0; i < count; ++i) {
            const auto bytes = key.number(static_cast<PrivateKey::Number>(i));
            // The interface asks for a mutable buffer, yet only reads this one.
            params[i] = OSSL_PARAM_construct_BN(names[i], const_cast<std::uint8_t*>(bytes.data()),
                                                bytes.size());
        }
        params[count] = OSSL_PARAM_construct_end();
        return pkey_from(params.data(), with_private ? EVP_PKEY_KEYPAIR : EVP_PKEY_PUBLIC_KEY);
    }
};

std::variant<PrivateKey, PrivateKeyError> PrivateKey::from_pem(std::string_view pem) {
    if (pem.find("-----BEGIN ENCRYPTED PRIVATE KEY-----") != std::string_view::npos) {
        return PrivateKeyError{"holds an encrypted private key"};
    }
    const std::size_t begin = pem.find(kBegin);
    if (begin == std::string_view::npos) {
        return kNotPkcs8;
    }
    pem.remove_prefix(begin + kBegin.size());
    const std::size_t end = pem.find(kEnd);
    // With a second block it would be ambiguous which one counts.
    if (end == std::string_view::npos || pem.find("-----BEGIN") != std::string_view::npos) {
        return kNotPkcs8;
    }
    SecretBytes base64 = SecretBytes::copy_of(pem.substr(0, end));
    std::uint8_t* const kept =
        std::remove_if(base64.data(), base64.data() + base64.size(),
                       [](std::uint8_t byte) { return is_space(static_cast<char>(byte)); });
    base64.truncate(static_cast<std::size_t>(kept - base64.data()));
    const std::optional<std::size_t> size = base64_decoded_size(base64.view());
    if (!size) {
        return kNotPkcs8;
    }
    SecretBytes der(*size);
    if (!decode_base64(base64.view(), {der.data(), der.size()})) {
        return kNotPkcs8;
    }
    return from_der(std::move(der));
}

std::variant<PrivateKey, PrivateKeyError> PrivateKey::from_der(SecretBytes der) {
    const ErrorQueueScope errors;
    DerWalker file(der.bytes());
    const auto info = file.take(V_ASN1_SEQUENCE);
    if (!info || !file.at_end()) {
        return kNotPkcs8;
    }
    // PrivateKeyInfo: version, algorithm, key; attributes may follow and are ignored.
    DerWalker fields(*info);
    const auto version = fields.take(V_ASN1_INTEGER);
    const auto algorithm = fields.take(V_ASN1_SEQUENCE);
    const auto octets = fields.take(V_ASN1_OCTET_STRING);
    if (!is_zero(version) || !algorithm || !octets) {
        return kNotPkcs8;
    }
    const auto identifier = DerWalker(*algorithm).take(V_ASN1_OBJECT);
    if (!identifier || !std::ranges::equal(*identifier, kRsaEncryption)) {
        return kNotRsa2048;
    }
    DerWalker key_file(*octets);
    const auto sequence = key_file.take(V_ASN1_SEQUENCE);
    if (!sequence || !key_file.at_end()) {
        return kNotPkcs8;
    }
    DerWalker numbers(*sequence);
    if (!is_zero(numbers.take(V_ASN1_INTEGER))) {  // two primes
        return kNotRsa2048;
    }
    PrivateKey key;
    for (Extent& extent : key.numbers_) {
        auto integer = numbers.take(V_ASN1_INTEGER);
        if (!integer || integer->empty() || integer->front() >= 0x80) {  // negative
            return kNotPkcs8;
        }
        while (!integer->empty() && integer->front() == 0) {
            integer = integer->subspan(1);
        }
        if (integer->empty()) {
            return kInconsistent;
        }
        extent = {.offset = static_cast<std::size_t>(integer->data() - der.data()),
                  .size = integer->size()};
    }
    if (!numbers.at_end()) {
        return kNotPkcs8;
    }
    const Extent& modulus = key.numbers_[kN];
    if (modulus.size != kWrappedSize || der.data()[modulus.offset] < 0x80) {
        return kNotRsa2048;
    }
    if (std::endian::native == std::endian::little) {
        for (const Extent& extent : key.numbers_) {
            std::reverse(der.data() + extent.offset, der.data() + extent.offset + extent.size);
        }
    }
    key.der_ = std::move(der);
    if (!key.unwraps_what_is_wrapped()) {
        return kInconsistent;
    }
    return key;
}

bool PrivateKey::unwraps_what_is_wrapped() const {
    static constexpr std::array<std::uint8_t, 32> probe = {1, 2, 3};
    const PkeyPtr pkey = KeyMaterial::build(*this, /*with_private=*/false);
    if (pkey == nullptr) {
        return false;
    }
    const PkeyContextPtr context(EVP_PKEY_CTX_new_from_pkey(nullptr, pkey.get(), nullptr));
    if (context == nullptr || EVP_PKEY_encrypt_init(context.get()) != 1 ||
        !set_oaep(context.get())) {
        throw CryptoUnavailable("RSA-OAEP with SHA-256 is not available");
    }
    std::array<std::uint8_t, kWrappedSize> wrapped{};
    std::size_t size = wrapped.size();
    if (EVP_PKEY_encrypt(context.get(), wrapped.data(), &size, probe.data(), probe.size()) != 1 ||
        size != wrapped.size()) {
        return false;
    }
    const std::optional<SecretBytes> unwrapped = unwrap(wrapped);
    return unwrapped && unwrapped->equals(probe);
}

std::optional<SecretBytes> PrivateKey::unwrap(std::span<const std::uint8_t> wrapped) const {
    if (wrapped.size() != kWrappedSize) {
        return std::nullopt;
    }
    const ErrorQueueScope errors;
    const PkeyPtr pkey = KeyMaterial::build(*this, /*with_private=*/true);
    if (pkey == nullptr) {
        return std::nullopt;
    }
    const PkeyContextPtr context(EVP_PKEY_CTX_new_from_pkey(nullptr, pkey.get(), nullptr));
    if (context == nullptr || EVP_PKEY_decrypt_init(context.get()) != 1 ||
        !set_oaep(context.get())) {
        throw CryptoUnavailable("RSA-OAEP with SHA-256 is not available");
    }
    // OpenSSL checks the padding in constant time and blinds the exponentiation. An attacker who
    // can distinguish kinds of refusals can open wraps (Manger's attack), so there is one kind.
    // OpenSSL 3.0 frees its padded copy of the result without wiping it, which we cannot prevent.
    SecretBytes unwrapped(kWrappedSize);
    std::size_t size = unwrapped.size();
    if (EVP_PKEY_decrypt(context.get(), unwrapped.data(), &size, wrapped.data(), wrapped.size()) !=
        1) {
        return std::nullopt;
    }
    unwrapped.truncate(size);
    return unwrapped;
}

std::string PrivateKey::public_digest() const {
    const auto modulus = number(kN);
    return sha256_hex({reinterpret_cast<const char*>(modulus.data()), modulus.size()});
}

bool PrivateKey::same_public_key(const PrivateKey& other) const noexcept {
    return std::ranges::equal(number(kN), other.number(kN)) &&
           std::ranges::equal(number(kE), other.number(kE));
}

bool PrivateKey::has_public_key(std::string_view public_pem) const {
    if (public_pem.size() > kMaxFileSize) {
        return false;
    }
    const ErrorQueueScope errors;
    const std::unique_ptr<BIO, FreeWith<BIO_free>> bio(
        BIO_new_mem_buf(public_pem.data(), static_cast<int>(public_pem.size())));
    if (bio == nullptr) {
        throw std::bad_alloc();
    }
    // Without a callback OpenSSL would ask the terminal for the password of an encrypted block.
    const auto no_password = [](char*, int, int, void*) { return -1; };
    const PkeyPtr theirs(PEM_read_bio_PUBKEY(bio.get(), nullptr, no_password, nullptr));
    const PkeyPtr ours = KeyMaterial::build(*this, /*with_private=*/false);
    return theirs != nullptr && ours != nullptr && EVP_PKEY_eq(ours.get(), theirs.get()) == 1;
}

}  // namespace mana_ai::crypto
