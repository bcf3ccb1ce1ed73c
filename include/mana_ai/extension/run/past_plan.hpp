// What a past run has planned, and what became of it, by the mission's record in the log.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "mana_ai/core/planner/plan_difference.hpp"

namespace mana_ai {

// Read with the privileges of the current role. nullopt: the mission was deleted, is too large or
// may not be read, or the iteration is not in it.
std::optional<std::vector<core::ComparedStep>> read_past_plan(const std::string& user_id,
                                                              const std::string& mission_id,
                                                              const std::string& iteration_id);

}  // namespace mana_ai
