// A question to another model: what would it have planned (docs/lineage.md)? A paid conversation
// like that of a run, of which nothing but its cost is written.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "mana_ai/core/planner/plan_difference.hpp"
#include "mana_ai/core/planner/planner_loop.hpp"
#include "mana_ai/extension/lease/claimed_mission.hpp"
#include "mana_ai/extension/lease/run_services.hpp"
#include "mana_ai/extension/run/evaluation.hpp"
#include "mana_ai/net/task.hpp"

namespace mana_ai {

struct WhatIfQuestion {
    std::string id;          // a uuid; the row in mana_ai.what_if_running
    ClaimedMission claimed;  // user, mission and run; no agent, since it is not charged
    std::string agent_id;    // empty = none
    std::string agent_name;  // for reminders, as the next ones
    std::optional<int64_t> agent_cap;
    int64_t agent_tokens = 0;
    std::string model;
    std::string service_tier;
    std::string prompt_cache_key;
    uint32_t engine = 0;
    EvaluationRun evaluated;
};

struct WhatIfAnswer {
    std::string status = "planned";  // or why not
    std::string reason;              // may quote the provider: for the caller only
    std::string model;               // that answered last
    core::Usage usage;
    // One for each reply; nullopt: it has no price.
    std::vector<std::optional<std::string>> costs;
    std::string currency;  // of the last one with a price
    int rounds = 0;

    bool is_priced_in_one_currency = true;
    std::string evaluation_ended;  // why the evaluation cannot go on; empty = it can
    bool is_recorded = false;      // in the evaluation
    bool is_announced = false;     // the row in mana_ai.what_if_running exists, unless erased
};

// Whether an operator has stopped what the question needs, or its user is being erased.
bool is_stopped(const Stops& stops, const WhatIfQuestion& question);

// In the current transaction: whether nobody has removed its row, as the erasure of its user does.
// The erasure itself may be over before anybody sees it among the stops.
bool is_on_record(const WhatIfQuestion& question);

// Converses until the planner has finished, or `answer` says why not; the costs are recorded as
// they arise. All references outlive the task.
net::Task<void> ask_what_if(RunServices& services, const WhatIfQuestion& question,
                            core::PlannerLoop& planner, WhatIfAnswer& answer);

std::vector<core::ComparedStep> steps_of(const core::PlannerLoop& planner);

// In the current transaction: ends what is in progress in this process.
void forget_what_ifs(uint32_t engine);

// The same for processes that no longer exist.
void forget_dead_what_ifs();

}  // namespace mana_ai
