// The parts of a mission's and an agent's record that planning reads, limited so that a run in
// flight keeps a few hundred kilobytes, whatever users push (docs/architecture.md, "Memory").
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
    // A browser of the user runs the mission itself, and has until then to finish.
    core::Instant browser_run_until = core::kOlderThanEverything;
    std::string clocks;  // of what prompts are made of (clock_vector.hpp); empty = unknown
};

// From the text that mana_ai.planning_record() returns; nullopt: it cannot be read.
std::optional<PlanningMission> read_planning_mission(std::string_view text);

// From the text of mana_ai.planning_agent(). `id` is the mission's agentId. `clocks` as in
// PlanningMission.
std::optional<core::Agent> read_planning_agent(std::string_view text, const std::string& id,
                                               std::string* clocks = nullptr);

// What prompts are made of.
ReadFields read_of_mission();
ReadFields read_of_agent();

// Whether a jsonb value is larger than mana_ai.max_record_size, without reading it.
bool is_too_large(Datum record);

// The texts themselves, in the current memory context. They may ereport(ERROR): call them inside
// pg::guarded(). `clocks` may be nullptr. An agent with too large a policy has no text: it must not
// be used without its policy.
const char* planning_record_text(Datum record, const bytea* clocks);
const char* planning_agent_text(Datum record, const bytea* clocks = nullptr);

// The maximum lead of a record's clock over ours for a plan to be written: more than any wrong time
// zone causes.
inline constexpr core::Instant kMaxClockLead = 48 * core::kMicrosPerHour;

}  // namespace mana_ai
