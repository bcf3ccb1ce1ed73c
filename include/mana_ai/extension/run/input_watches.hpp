// Missions that are planned when their inputs change (docs/contract/data.md, Waking on data): who
// waits for which records, what has changed, and when it makes a mission due.
//
// All but the filter is in tables, in the current transaction: a crash forgets nothing.
#pragma once

#include <optional>
#include <string>

#include "mana_ai/core/time/instant.hpp"
#include "mana_ai/extension/lease/claimed_mission.hpp"

namespace mana_ai {

// Fills the filter of shared memory after the server's start; else does nothing.
void load_watch_filter();

// Takes the marks that the trigger has written. False: some are left.
bool take_input_changes(core::Instant now);

// Makes missions due whose time has come. False: some are left.
bool wake_missions(core::Instant now);

// When the next mission is woken; nullopt = none.
std::optional<core::Instant> next_input_wake_at();

// A plan is about to be written, or the run has found nothing new: the mission is due by its
// nextRunAt again. No effect if nothing has woken it.
void end_wake(const ClaimedMission& claimed);

// What the run has read is noted as seen; nullopt: it has made no plan of it.
void forget_seen_changes(const ClaimedMission& claimed,
                         const std::optional<core::Instant>& planned_at);

// In the transaction of the plan.
void note_plan_of_watching(const ClaimedMission& claimed, core::Instant now);

}  // namespace mana_ai
