// When a user is told why a mission of theirs does not run (docs/contract/data.md, Failure
// notices), and what they have been told since the last plan. All in the current transaction.
#pragma once

#include <optional>
#include <string>

#include "mana_ai/core/planner/gates.hpp"
#include "mana_ai/core/record/failure_notice.hpp"
#include "mana_ai/extension/lease/claimed_mission.hpp"

namespace mana_ai {

// Failed runs in a row after which the user is told.
inline constexpr int kFailuresBeforeNotice = 3;

// The notice for a closed gate; nullopt: none, since it opens by itself, or the user has closed it
// and sees that.
std::optional<core::NoticeCause> notice_cause(core::GateDecision decision);

// Whether the user is to be told now: they were not told yet, and the gates have held the mission
// back long enough for the same reason. A failed run is reported at once.
bool is_notice_due(const std::string& user_id, const std::string& mission_id,
                   core::NoticeCause cause, core::Instant now);

void remember_told(const ClaimedMission& claimed, core::NoticeCause cause);

// Whether the server's last iteration in the mission's record says the same.
bool says_already(const ClaimedMission& claimed, const core::FailureNotice& notice);

}  // namespace mana_ai
