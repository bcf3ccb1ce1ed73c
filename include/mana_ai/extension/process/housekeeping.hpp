// What a tick does besides planning: repair, retention, runs that nobody holds any more, missions
// that a change of agent or settings sets free. All in the current transaction.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "mana_ai/core/time/instant.hpp"

namespace mana_ai {

// The installed version of the extension in this database; empty when it is not there.
std::string installed_version();

// What keeps plans from being written to the attached table; empty = nothing.
std::string sync_table_problem();

// Ends runs whose engine is gone (its session lock is free) and frees their missions. Returns how
// many there were.
int recover_runs_of_dead_engines(uint32_t own_engine, core::Instant now);

// Frees missions that wait although their agent has changed meanwhile (docs/contract/tick.md,
// Gates). Agents that changed before `since` were seen by an earlier call.
void free_missions_of_changed_agents(core::Instant since, core::Instant now);

// When the last tick of any process in this database began; 0 = never.
core::Instant last_tick_at();

// Frees missions that a provider refused, when the settings are others than at the last tick.
void free_missions_after_new_settings(core::Instant now);

// After the clock was set back by so much: what was to wait until a time waits no longer for that.
void pull_backoffs_back(core::Instant by, core::Instant now);

// Says in status() whether this process has a key for grants. With another key than the last
// process had, missions whose texts did not open are looked at again.
void record_grant_key(const std::string& state, const std::string& digest, core::Instant now);

// Frees missions that waited for another mission of their agent to end.
void free_missions_waiting_for_agent(const std::string& user_id, const std::string& agent_id);

// Deletes what is older than its retention, a bounded number of rows; true = there is more.
bool delete_expired_rows(core::Instant now);

// Prices replies that came before their price was known; a bounded number.
void price_used_tokens();

// When the schedule next asks for attention; nullopt = nothing is scheduled.
std::optional<core::Instant> next_wake_at();

}  // namespace mana_ai
