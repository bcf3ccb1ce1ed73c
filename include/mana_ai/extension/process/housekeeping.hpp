// Housekeeping of a tick: repair, retention, runs of dead engines, missions that a change of agent
// or settings frees. All in the current transaction.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "mana_ai/core/time/instant.hpp"

namespace mana_ai {

// The installed version of the extension in this database; empty if it is not installed.
std::string installed_version();

// Why plans cannot be written to the attached table; empty = they can.
std::string sync_table_problem();

// Ends runs whose engine is dead (its session lock is free) and frees their missions. Returns how
// many there were.
int recover_runs_of_dead_engines(uint32_t own_engine, core::Instant now);

// Frees waiting missions whose agent has changed (docs/contract/tick.md, Gates). Agents that
// changed before `since` were seen by an earlier call.
void free_missions_of_changed_agents(core::Instant since, core::Instant now);

// When the last tick of any process in this database began; 0 = never.
core::Instant last_tick_at();

// Frees missions that a provider refused, if the settings have changed since the last tick.
void free_missions_after_new_settings(core::Instant now);

// After the clock was set back by this much: moves waiting times back, so that no wait gets longer.
void pull_backoffs_back(core::Instant by, core::Instant now);

// Records for status() whether this process has a key for grants. If the key has changed since the
// last process, missions whose texts did not open are checked again.
void record_grant_key(const std::string& state, const std::string& digest, core::Instant now);

// Frees missions that waited for another mission of their agent to end.
void free_missions_waiting_for_agent(const std::string& user_id, const std::string& agent_id);

// Prices replies that arrived before their price was known; a limited number.
void price_used_tokens();

// The next time in the schedule; nullopt = nothing is scheduled.
std::optional<core::Instant> next_wake_at();

}  // namespace mana_ai
