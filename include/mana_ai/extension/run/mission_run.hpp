// One mission run, from its claim to its end (docs/contract/tick.md, Planner loop).
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "mana_ai/core/planner/tool_catalog.hpp"
#include "mana_ai/extension/input/grant_key.hpp"
#include "mana_ai/extension/input/resolver_patience.hpp"
#include "mana_ai/extension/run/claimed_mission.hpp"
#include "mana_ai/extension/run/database_jobs.hpp"
#include "mana_ai/extension/run/service_gates.hpp"
#include "mana_ai/extension/run/stops.hpp"
#include "mana_ai/extension/sync/table_patience.hpp"
#include "mana_ai/net/event_loop.hpp"
#include "mana_ai/net/http_client.hpp"
#include "mana_ai/net/task.hpp"

namespace mana_ai {

// What all runs of a process share. Outlives them.
struct RunServices {
    net::EventLoop& loop;
    net::HttpClient* http;  // stays the same while a run is under way
    DatabaseJobs& jobs;
    core::ToolCatalog& catalog;
    const GrantKey& grant_key;
    Tracer& tracer;
    ResolverPatience& resolver_patience;
    TablePatience& table_patience;
    ServiceGates& gates;
    const Stops& stops;         // as of the last look
    std::string authorization;  // complete header line with the service key, or empty; a secret
    std::string service_key;    // likewise, as the research services want it
};

// Reads a mission that was claimed unread: calls `read` in transactions of its own until it is
// true. A failure is an attempt that has failed, and `result` says so. Otherwise as run_mission().
net::Task<void> read_mission_alone(RunServices& services, const ClaimedMission& claimed,
                                   std::function<bool()> read, RunResult& result);

// Plans the mission and writes the plan back, or records why not; `result` says which when the task
// has ended. The task throws only what makes the whole process unfit (out of memory). Destroying it
// cancels the run; its lease is then the engine's to give back. Both references outlive the task.
net::Task<void> run_mission(RunServices& services, const ClaimedMission& claimed,
                            RunResult& result);

}  // namespace mana_ai
