// Web research before planning (docs/contract/inputs.md, "Web research before planning").
#pragma once

#include <optional>
#include <string>

#include "mana_ai/core/planner/prompts.hpp"
#include "mana_ai/extension/run/mission_run.hpp"
#include "mana_ai/net/task.hpp"

namespace mana_ai {

// Looks for articles on the query with mana-api and makes an input of them. Nullopt when there are
// none or anything fails: the mission is then planned without. At most 45 seconds.
// `claimed` outlives the task.
net::Task<std::optional<core::ResolvedInput>> research_web(RunServices& services,
                                                           const ClaimedMission& claimed,
                                                           std::string query);

}  // namespace mana_ai
