// For faults of OpenSSL or memory, not of the input.
#pragma once

#include <stdexcept>

namespace mana_ai::crypto {

// OpenSSL fails: out of memory, or its providers lack the algorithm. The message names the step,
// never a value.
class CryptoUnavailable : public std::runtime_error {
 public:
    using std::runtime_error::runtime_error;
};

}  // namespace mana_ai::crypto
