// A finished plan becomes a new iteration of its mission (docs/contract/data.md, Write-back).
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "mana_ai/core/planner/plan.hpp"
#include "mana_ai/extension/lease/claimed_mission.hpp"
#include "mana_ai/extension/sync/table_patience.hpp"

namespace mana_ai {

struct FinishedPlan {
    const std::vector<core::PlanStep>& steps;
    std::string summary;
    bool objective_was_decrypted = false;  // then nothing written may quote it
    std::string basis_digest;              // of core::plan_basis(); empty = unknown
};

// A change of a mission for mana-sync's table.
struct MissionChange {
    const std::string& user_id;
    const std::string& mission_id;
    const std::optional<std::string>& space_id;
    const std::string& data;    // JSON
    const std::string& stamps;  // JSON: an instant for each field of it
    std::optional<std::string> actor;
};

// Inserts the change in the current transaction. `what` names it for the log. Throws PgError.
void insert_change(const MissionChange& change, const std::string& what, TablePatience& patience);

// The wall clock, but later than any clock that it must win against: at equal times the later row
// wins, which may not be this one.
core::Instant instant_of_writing(core::Instant now, core::Instant newest_clock);

// Appends the iteration to the newest record, ends the run's row and releases the lease, all in the
// current transaction. Sets result.outcome to Planned, or to Discarded if the mission was deleted,
// is no longer active, or its lease was taken over. Throws PgError; the transaction must then not
// be committed.
void write_back(const ClaimedMission& claimed, const FinishedPlan& plan, RunResult& result,
                TablePatience& patience);

// Appends a failed iteration that tells the user the cause, and records that they were told. The
// mission stays due, and the run continues to its end. The error kind is for failure_notice().
// Returns the iteration's id; empty, and nothing done, if they were told before, or the record must
// not be written now. Call with the lease held. Throws PgError as write_back().
std::string write_failure_notice(const ClaimedMission& claimed, core::NoticeCause cause,
                                 const std::string& error_kind, core::Instant now,
                                 TablePatience& patience);

// Moves the mission to its next run without a plan, and ends the run as skipped-unchanged, in the
// same way (docs/configuration.md, mana_ai.skip_unchanged). Discarded as above.
void put_off_unchanged(const ClaimedMission& claimed, RunResult& result, TablePatience& patience);

// Ends a run whose mission a change has woken that no prompt shows: as skipped-unchanged, without a
// row in the log. The mission is due by its nextRunAt again.
void end_wake_for_nothing(const ClaimedMission& claimed, RunResult& result);

}  // namespace mana_ai
