// Web research before planning (docs/contract/inputs.md, "Web research before planning").
#pragma once

#include <optional>
#include <string>

#include "mana_ai/core/record/resolved_input.hpp"
#include "mana_ai/extension/lease/claimed_mission.hpp"
#include "mana_ai/extension/lease/run_services.hpp"
#include "mana_ai/net/task.hpp"

namespace mana_ai {

struct WebResearch {
    std::optional<core::ResolvedInput> found;
    // The reason in runs.inputs: "nothing-found", "http-<status>", "user-id", "daily-limit",
    // "budget" or a name of net::to_string().
    std::string reason;
    bool is_limited = false;  // one of those two limits
};

// Searches articles for the query with mana-api and makes an input of them. If there are none,
// anything fails, or the user's daily limit is reached, the mission is planned without them. At
// most 45 seconds. Refusals are logged, once until an answer comes. `claimed` outlives the task.
net::Task<WebResearch> research_web(RunServices& services, const ClaimedMission& claimed,
                                    std::string query);

}  // namespace mana_ai
