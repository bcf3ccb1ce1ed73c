// When a user is told why a mission of theirs does not run (docs/contract/data.md, Failure
// notices), and what they have been told since the last plan. All in the current transaction.
#pragma once

#include <optional>
#include <string>

#include "mana_ai/core/planner/gates.hpp"
#include "mana_ai/core/record/failure_notice.hpp"
#include "mana_ai/extension/lease/claimed_mission.hpp"

namespace mana_ai {

// Failed runs in a row, of which the last one is told of.
inline constexpr int kFailuresBeforeNotice = 3;

// What there is to tell of a shut gate; nullopt: nothing, as it opens by itself, or the user has
// shut it a moment ago and sees that.
std::optional<core::NoticeCause> notice_cause(core::GateDecision decision);

// Whether the user is to be told now: they were not, and what the gates hold back, and have held
// back for the same reason at their last look, has been held back long enough. A failed run is told
// of at once.
bool is_notice_due(const std::string& user_id, const std::string& mission_id,
                   core::NoticeCause cause, core::Instant now);

void remember_told(const ClaimedMission& claimed, core::NoticeCause cause);

// Whether the last iteration of ours in the mission's record tells the same.
bool says_already(const ClaimedMission& claimed, const core::FailureNotice& notice);

}  // namespace mana_ai
