// Web research is paid for like replies of a model: it has rows in the ledger mana_ai.token_usage,
// a price per call in mana_ai.model_prices, and a limit for each user and day (docs/operations.md,
// "Web research").
#pragma once

#include <optional>
#include <string>

#include "mana_ai/extension/lease/claimed_mission.hpp"

namespace mana_ai {

struct WebResearchUse {
    std::string id;               // of its row
    int64_t cost_millionths = 0;  // rounded up; means something only with a currency
    std::string currency;         // empty: there is no price for it
};

// Charges one before it goes out, so that those under way exceed no limit together. Nullopt: the
// user has had as many in the last day as are allowed. In the current transaction.
std::optional<WebResearchUse> charge_web_research(const ClaimedMission& claimed);

// No service has answered it. In the current transaction.
void take_charge_back(const WebResearchUse& use);

}  // namespace mana_ai
