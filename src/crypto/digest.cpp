#include "mana_ai/crypto/digest.hpp"

#include <openssl/evp.h>

#include <array>
#include <utility>

#include "mana_ai/core/text/hex.hpp"
#include "mana_ai/crypto/unavailable.hpp"

namespace mana_ai::crypto {

struct Sha256::State {
    State() : context(EVP_MD_CTX_new()) {
        if (context == nullptr) {
            throw CryptoUnavailable("SHA-256");
        }
    }
    ~State() { EVP_MD_CTX_free(context); }
    State(const State&) = delete;
    State& operator=(const State&) = delete;

    EVP_MD_CTX* context;
};

Sha256::Sha256() : state_(std::make_unique<State>()) {
    if (EVP_DigestInit_ex(state_->context, EVP_sha256(), nullptr) != 1) {
        throw CryptoUnavailable("SHA-256");
    }
}

Sha256::~Sha256() = default;
Sha256::Sha256(Sha256&&) noexcept = default;

Sha256::Sha256(const Sha256& other) : state_(std::make_unique<State>()) {
    if (EVP_MD_CTX_copy_ex(state_->context, other.state_->context) != 1) {
        throw CryptoUnavailable("SHA-256");
    }
}

Sha256& Sha256::operator=(Sha256 other) noexcept {
    state_ = std::move(other.state_);
    return *this;
}

void Sha256::add(std::string_view text) {
    if (EVP_DigestUpdate(state_->context, text.data(), text.size()) != 1) {
        throw CryptoUnavailable("SHA-256");
    }
}

std::string Sha256::hex_with(std::string_view rest) const {
    Sha256 last(*this);
    last.add(rest);
    std::array<unsigned char, 32> digest{};
    if (EVP_DigestFinal_ex(last.state_->context, digest.data(), nullptr) != 1) {
        throw CryptoUnavailable("SHA-256");
    }
    std::string hex;
    hex.reserve(2 * digest.size());
    core::append_hex(hex, digest);
    return hex;
}

std::string sha256_hex(std::string_view text) {
    return Sha256().hex_with(text);
}

}  // namespace mana_ai::crypto
