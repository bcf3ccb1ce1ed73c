// Restores plans that a device has removed without having seen them, and what other devices have
// made of them (docs/contract/data.md, Lost plans).
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "mana_ai/core/time/instant.hpp"
#include "mana_ai/extension/sync/table_patience.hpp"

namespace mana_ai {

struct SuspectMission {
    std::string user_id;
    std::string mission_id;
};

// Missions that may have lost an iteration and are to be checked by now, at most `limit`. Those
// that somebody has locked are left out.
std::vector<SuspectMission> missions_to_check(core::Instant now, int limit);

// When the next of them is to be checked.
std::optional<core::Instant> next_check_at();

// Checks one of them, in the current transaction, and puts back what it lacks. Throws PgError; the
// transaction must then not be committed.
void restore_iterations(const SuspectMission& mission, core::Instant now, TablePatience& patience);

// Schedules another check; nullopt: not before the next loss.
void check_later(const SuspectMission& mission, std::optional<core::Instant> at);

// Counts a failed attempt, and returns when to try again; nullopt: it has failed too often.
std::optional<core::Instant> note_failed_check(const SuspectMission& mission, core::Instant now);

}  // namespace mana_ai
