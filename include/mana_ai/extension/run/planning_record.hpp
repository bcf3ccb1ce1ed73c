// What planning reads of a mission's and an agent's record, and how much of it: whatever users
// push, a run in flight keeps a few hundred kilobytes (docs/architecture.md, "Memory").
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "mana_ai/core/record/lww.hpp"
#include "mana_ai/core/record/records.hpp"
#include "mana_ai/extension/sync/clock_vector.hpp"
#include "mana_ai/pg/postgres.hpp"

namespace mana_ai {

struct PlanningMission {
    core::Mission
        mission;  // with the newest iterations only, and texts as long as prompts need them
    core::Instant newest_clock = core::kOlderThanEverything;  // of the fields that a plan changes
    // A browser of the user's runs the mission itself, and has until then to finish.
    core::Instant browser_run_until = core::kOlderThanEverything;
    std::string clocks;  // of what prompts are made of (clock_vector.hpp); empty = not known
};

// From the text that mana_ai.planning_record() returns; nullopt: it cannot be read.
std::optional<PlanningMission> read_planning_mission(std::string_view text);

// From the text of mana_ai.planning_agent(). `id` is the mission's agentId. `clocks` are as of the
// mission.
std::optional<core::Agent> read_planning_agent(std::string_view text, const std::string& id,
                                               std::string* clocks = nullptr);

// What prompts are made of.
ReadFields read_of_mission();
ReadFields read_of_agent();

// Whether a jsonb value is larger than mana_ai.max_record_size, without reading it.
bool is_too_large(Datum record);

// The texts themselves, in the current memory context. They may ereport(ERROR): call them inside
// pg::guarded(). `clocks` may be nullptr. An agent has none when its policy is too large: it must
// not be planned for without its policy.
const char* planning_record_text(Datum record, const bytea* clocks);
const char* planning_agent_text(Datum record, const bytea* clocks = nullptr);

// How far ahead of our clock a record's may be for a plan to be written over it: more than any
// wrong time zone makes it.
inline constexpr core::Instant kMaxClockLead = 48 * core::kMicrosPerHour;

}  // namespace mana_ai
