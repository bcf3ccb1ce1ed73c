// The paid part of a run: the conversation with the model until there is a plan
// (docs/contract/tick.md, Planner loop).
#pragma once

#include <optional>

#include "mana_ai/core/planner/planner_loop.hpp"
#include "mana_ai/core/service/model_wire.hpp"
#include "mana_ai/extension/lease/claimed_mission.hpp"
#include "mana_ai/extension/run/mission_run.hpp"
#include "mana_ai/net/task.hpp"

namespace mana_ai {

// Compaction, reminders, model call, usage, verdicts, until the planner has finished. Returns the
// provider's error that ended it, if any; throws the database's error if it could not record
// something. Fills `events` as it goes. All references outlive the task.
net::Task<std::optional<core::ProviderError>> plan_mission(RunServices& services,
                                                           const ClaimedMission& claimed,
                                                           core::PlannerLoop& planner,
                                                           RunEvents& events);

}  // namespace mana_ai
