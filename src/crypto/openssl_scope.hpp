// What every call into OpenSSL needs around it.
#pragma once

#include <openssl/err.h>
#include <openssl/evp.h>

#include <memory>

#if OPENSSL_VERSION_NUMBER < 0x30000000L
#error "mana_ai needs OpenSSL 3.0 or later"
#endif

namespace mana_ai::crypto {

// Leaves OpenSSL's error queue as it was found: the same process may speak TLS, and that code takes
// any entry for its own. It also keeps the causes of failures from everybody
// (docs/contract/inputs.md knows only wrap-rejected).
class ErrorQueueScope {
 public:
    ErrorQueueScope() noexcept { ERR_set_mark(); }
    ~ErrorQueueScope() { ERR_pop_to_mark(); }
    ErrorQueueScope(const ErrorQueueScope&) = delete;
    ErrorQueueScope& operator=(const ErrorQueueScope&) = delete;
};

template <auto Free>
struct FreeWith {
    template <typename T>
    void operator()(T* object) const noexcept {
        Free(object);
    }
};

using PkeyPtr = std::unique_ptr<EVP_PKEY, FreeWith<EVP_PKEY_free>>;
using PkeyContextPtr = std::unique_ptr<EVP_PKEY_CTX, FreeWith<EVP_PKEY_CTX_free>>;
using CipherPtr = std::unique_ptr<EVP_CIPHER, FreeWith<EVP_CIPHER_free>>;
using CipherContextPtr = std::unique_ptr<EVP_CIPHER_CTX, FreeWith<EVP_CIPHER_CTX_free>>;

}  // namespace mana_ai::crypto
