// The sums mana_ai.usage_sums of what all users together have used (docs/architecture.md, "Budgets
// of all together").
#pragma once

namespace mana_ai {

// Adds up what has been used until a few minutes ago, a bounded number of replies. Returns whether
// more are left; false also if another process uses the ledger at this moment. In the current
// transaction.
bool advance_usage_sums();

}  // namespace mana_ai
