// One mission run, from its claim to its end (docs/contract/tick.md, Planner loop).
#pragma once

#include <functional>

#include "mana_ai/extension/lease/claimed_mission.hpp"
#include "mana_ai/extension/lease/run_services.hpp"
#include "mana_ai/net/task.hpp"

namespace mana_ai {

// Reads a mission that was claimed unread: calls `read` in separate transactions until it returns
// true. A failure counts as a failed attempt, and `result` says so. Otherwise as run_mission().
net::Task<void> read_mission_alone(RunServices& services, const ClaimedMission& claimed,
                                   std::function<bool()> read, RunResult& result);

// Plans the mission and writes the plan back, or records why not; `result` says which when the task
// has ended. The task throws only errors of the whole process (out of memory). Destroying it
// cancels the run; the engine then releases its lease. Both references outlive the task.
net::Task<void> run_mission(RunServices& services, const ClaimedMission& claimed,
                            RunResult& result);

}  // namespace mana_ai
