// A finished plan becomes a new iteration of its mission (docs/contract/data.md, Write-back).
#pragma once

#include <string>
#include <vector>

#include "mana_ai/core/planner/plan.hpp"
#include "mana_ai/extension/run/claimed_mission.hpp"
#include "mana_ai/extension/sync/table_patience.hpp"

namespace mana_ai {

struct FinishedPlan {
    const std::vector<core::PlanStep>& steps;
    std::string summary;
    bool objective_was_decrypted = false;  // then nothing written may quote it
    std::string basis_digest;              // of core::plan_basis(); empty = not known
};

// Appends the iteration to the newest record, ends the run's row and gives the lease back, all in
// the current transaction. Sets result.outcome to Planned, or to Discarded when the mission is no
// longer ours to write: it was deleted, is not active any more, or the lease was taken over.
// Throws PgError; nothing of it may then be committed.
void write_back(const ClaimedMission& claimed, const FinishedPlan& plan, RunResult& result,
                TablePatience& patience);

// Appends a failed iteration that tells the user of the cause, and remembers that they were told.
// The mission stays due, and the run goes on to its end. The error kind is what failure_notice()
// takes. Returns its id; empty, and nothing done, when they were told before, or the record is not
// ours to write now. Call when the lease is held. Throws PgError as write_back().
std::string write_failure_notice(const ClaimedMission& claimed, core::NoticeCause cause,
                                 const std::string& error_kind, core::Instant now,
                                 TablePatience& patience);

// Moves the mission to its next run without a plan, and ends the run as skipped-unchanged, in the
// same way (docs/configuration.md, mana_ai.skip_unchanged). Discarded as above.
void put_off_unchanged(const ClaimedMission& claimed, RunResult& result, TablePatience& patience);

}  // namespace mana_ai
