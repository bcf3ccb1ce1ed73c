// Secrets are overwritten before their memory is freed.
#pragma once

#include <cstddef>
#include <string>

#include "mana_ai/core/text/json.hpp"

namespace mana_ai::core {

// Overwrites the whole capacity of the string and leaves it empty. What is before `from` may be
// known to others.
void wipe(std::string& text) noexcept;
void wipe(std::string& text, std::size_t from) noexcept;

// Wipes every string in the value, however deep, and leaves null. Keys are not overwritten.
void wipe(Json& value) noexcept;

// Wipes a string at the end of the scope, also after an exception.
class WipeAtEnd {
 public:
    explicit WipeAtEnd(std::string& text) noexcept : text_(text) {}
    ~WipeAtEnd() { wipe(text_); }
    WipeAtEnd(const WipeAtEnd&) = delete;
    WipeAtEnd& operator=(const WipeAtEnd&) = delete;

 private:
    std::string& text_;
};

}  // namespace mana_ai::core
