// Secrets are overwritten before their memory is given back.
#pragma once

#include <string>

#include "mana_ai/core/json.hpp"

namespace mana_ai::core {

// Overwrites the whole capacity of the string and leaves it empty.
void wipe(std::string& text) noexcept;

// Wipes every string in the value, however deep, and leaves null. Keys are not overwritten.
void wipe(Json& value) noexcept;

}  // namespace mana_ai::core
