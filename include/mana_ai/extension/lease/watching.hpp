// Whether changes of its inputs wake a mission (docs/contract/data.md, Waking on data).
#pragma once

#include "mana_ai/extension/lease/claimed_mission.hpp"

namespace mana_ai {

// Recurring, and it is to be planned sooner when an input changes: by its agent's option, else by
// the setting.
bool has_opted_in(const ClaimedMission& claimed);

// As far as a hint can tell: never false if changes wake it.
bool may_be_watching(const ClaimedMission& claimed);

}  // namespace mana_ai
