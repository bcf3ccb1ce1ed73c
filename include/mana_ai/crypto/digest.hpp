// SHA-256.
#pragma once

#include <memory>
#include <string>
#include <string_view>

namespace mana_ai::crypto {

// Throws CryptoUnavailable, as the others do.
class Sha256 {
 public:
    Sha256();
    ~Sha256();
    // A copy continues from the same point.
    Sha256(const Sha256& other);
    Sha256(Sha256&&) noexcept;
    Sha256& operator=(Sha256 other) noexcept;

    void add(std::string_view text);

    // Of all that was added, and then this, in lower-case hexadecimal, 64 characters. Adds nothing.
    std::string hex_with(std::string_view rest) const;

 private:
    struct State;
    std::unique_ptr<State> state_;
};

std::string sha256_hex(std::string_view text);

}  // namespace mana_ai::crypto
