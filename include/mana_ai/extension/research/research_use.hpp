// Research is paid for like replies of a model: it has rows in the ledger mana_ai.token_usage, a
// price per call in mana_ai.model_prices, and a limit for each user and day (docs/operations.md,
// "Web research", "Long research").
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "mana_ai/extension/lease/claimed_mission.hpp"

namespace mana_ai {

enum class ResearchKind : uint8_t { Web, Deep };

struct ResearchUse {
    std::string id;               // of its row
    int64_t cost_millionths = 0;  // rounded up; means something only with a currency
    std::string currency;         // empty: there is no price for it
};

struct ResearchCharge {
    std::optional<ResearchUse> use;
    // Why there is none; a reason in runs.inputs: "daily-limit" or "budget".
    const char* refused = nullptr;
};

// Charges one before it goes out, so that those under way exceed neither the user's limit nor a
// budget in money together. In the current transaction.
ResearchCharge charge_research(const ClaimedMission& claimed, ResearchKind kind);

// No service has answered it. In the current transaction.
void take_charge_back(const ResearchUse& use);

// It was answered: its cost counts in the metrics.
void count_research_cost(const ClaimedMission& claimed, const ResearchUse& use);

}  // namespace mana_ai
