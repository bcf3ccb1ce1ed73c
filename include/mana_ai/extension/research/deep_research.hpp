// Research that takes longer than a run (docs/contract/inputs.md, "Deep research across ticks";
// docs/architecture.md, "Deep research").
#pragma once

#include <optional>
#include <string>

#include "mana_ai/core/planner/prompts.hpp"
#include "mana_ai/core/record/records.hpp"
#include "mana_ai/core/service/deep_research.hpp"
#include "mana_ai/extension/lease/claimed_mission.hpp"
#include "mana_ai/extension/lease/run_services.hpp"
#include "mana_ai/net/task.hpp"

namespace mana_ai {

struct ResearchOutcome {
    bool wait = false;              // end the run with end_run_waiting()
    bool web_instead = false;       // wanted but unavailable: web research takes its place
    const char* refused = nullptr;  // why none was ordered, a reason in runs.inputs; null = another
    std::optional<core::ResolvedInput> answer;
};

// Orders research, polls for its answer, or gives it up, depending on the mission's job and the
// settings. `mission` is the mission as the model will read it. Called once, before planning; at
// most 45 seconds. Throws the database's error after the retries of a durable step.
net::Task<ResearchOutcome> deep_research(RunServices& services, const ClaimedMission& claimed,
                                         const core::Mission& mission);

// Ends a run that waits for research, without failure and plan, with decision skipped-research.
net::Task<void> end_run_waiting(RunServices& services, const ClaimedMission& claimed,
                                RunResult& result);

// Polls a task at mana-research once; at most 15 seconds, never throws for a network fault. The ids
// outlive the coroutine; the span is that of the call.
net::Task<core::ResearchPoll> ask_for_research(RunServices& services, const std::string& user_id,
                                               const std::string& task_id, SpanScope span);

}  // namespace mana_ai
