// When the fault is with OpenSSL or memory and not with the input.
#pragma once

#include <stdexcept>

namespace mana_ai::crypto {

// OpenSSL cannot do what is asked of it: out of memory, or its providers lack the algorithm. The
// message names the step, never a value.
class CryptoUnavailable : public std::runtime_error {
 public:
    using std::runtime_error::runtime_error;
};

}  // namespace mana_ai::crypto
