// Which of the records that a plan is based on have changed by the time it is written
// (docs/lineage.md).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "mana_ai/core/record/iteration.hpp"
#include "mana_ai/extension/lease/claimed_mission.hpp"
#include "mana_ai/extension/sync/table_patience.hpp"

namespace mana_ai {

struct ReadSetChanges {
    std::vector<core::ChangedRead> changed;
    bool is_incomplete = false;  // of some nobody could tell
};

// Of the records that the mission refers to. They are read again in the current transaction, for a
// bounded time: call it before anything is locked. Later changes are in mana_ai.stale_plans.
ReadSetChanges changes_of_inputs(const std::string& user_id, const Lineage& lineage,
                                 TablePatience& patience);

// The mission as it is now, locked.
struct NewestMission {
    int64_t version = 0;
    const std::string& clocks;  // empty: they cannot be read
    const std::optional<std::string>& space_id;
};

// Prepends the changes of the mission and of its agent, which are looked up by their keys.
void add_changes_of_own_records(ReadSetChanges& changes, const ClaimedMission& claimed,
                                const NewestMission& newest, const Lineage& lineage);

}  // namespace mana_ai
