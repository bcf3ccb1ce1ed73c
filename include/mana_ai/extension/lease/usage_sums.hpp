// The sums mana_ai.usage_sums of what all users together have used (docs/architecture.md, "Budgets
// of all together").
#pragma once

#include <optional>

namespace mana_ai {

// Adds up what has been used until a few minutes ago, a bounded number of replies, in the current
// transaction. Returns whether more are left; nullopt: nothing was done, since another transaction
// is charging at this moment.
std::optional<bool> advance_usage_sums();

}  // namespace mana_ai
