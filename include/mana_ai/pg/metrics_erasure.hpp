// Taking a name that users make out of what was counted (docs/erasure.md).
#pragma once

#include <string_view>

namespace mana_ai::pg::metrics {

// What was counted under this value of the label counts under "other" from now on, and the value is
// gone from memory. It may come back with the next count.
void erase_label_value(std::string_view label, std::string_view value) noexcept;

}  // namespace mana_ai::pg::metrics
