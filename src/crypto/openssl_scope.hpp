// Scopes for calls into OpenSSL.
#pragma once

#include <openssl/err.h>
#include <openssl/evp.h>

#include <memory>

#if OPENSSL_VERSION_NUMBER < 0x30000000L
#error "mana_ai needs OpenSSL 3.0 or later"
#endif

namespace mana_ai::crypto {

// Restores OpenSSL's error queue: the same process may use TLS, and that code treats any entry as
// its own. It also hides the causes of failures (docs/contract/inputs.md has only wrap-rejected).
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
