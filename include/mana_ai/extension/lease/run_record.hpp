// What a run writes to the tables: its cost, its result, and the release of its lease. Every
// function runs in the current transaction (docs/contract/data.md, Write-back).
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "mana_ai/core/service/model_wire.hpp"
#include "mana_ai/extension/lease/claimed_mission.hpp"

namespace mana_ai {

// The new value of mission_schedule.problem of a row "s" for a decision, as an SQL expression;
// `decision` is one too. The only list of the decisions that need somebody's attention.
std::string problem_of(const std::string& decision);

// A reply and its cost.
struct PaidReply {
    core::Usage usage;
    std::string asked_model;
    std::string model;         // that answered
    std::string service_tier;  // empty = the standard one
    bool is_of_planner = true;
    const char* purpose = "plan";  // or "what_if": not the mission's, and at no user's expense
};

// nullopt: it has no price.
struct Charge {
    std::optional<std::string> cost;  // a numeric
    std::string currency;
};

// Records what one model reply cost: in token_usage, by the known price; and in the run's row,
// where the reservation of the next call replaces that of this one.
Charge add_to_ledger(const ClaimedMission& claimed, const PaidReply& reply);
void add_to_run(const ClaimedMission& claimed, const PaidReply& reply, int rounds,
                int64_t reserved);

// Whether the mission has changed since the run read it. Locks the snapshot, so that it waits for
// uncommitted changes; call it before hold_lease(), since all lock in this order.
bool mission_has_changed(const ClaimedMission& claimed);

// Whether the lease is still ours, checked under the row's lock. Throws (55P03) instead of waiting
// for another transaction that has locked the row.
bool hold_lease(const ClaimedMission& claimed);

// Ends the run's row. Call after hold_lease().
void finish_run(const ClaimedMission& claimed, const RunResult& result, core::Instant now);

// Releases the lease after a success or a discard: failures are forgotten, and the mission's next
// check is when it is due.
void release_lease(const ClaimedMission& claimed);

// Releases the lease after a failure: the mission waits until `not_before`.
void release_lease_after_failure(const ClaimedMission& claimed, const std::string& error_kind,
                                 core::Instant not_before, core::Instant now);

// Ends a run because a gate closed after the claim: result.decision says which, result.error_kind
// why, if that is known. Releases the lease; the mission is checked again at `not_before`. Like
// every skip it stays in the history only if the decision is new, or the run has spent something.
// Call after hold_lease().
void hold_back(const ClaimedMission& claimed, const RunResult& result, core::Instant not_before,
               core::Instant now);

// Releases the lease while the mission waits for research: neither a success nor a failure. It is
// checked again when a poll has the answer, at the latest `longest_wait` microseconds after it
// began to wait. Call after hold_lease().
void release_lease_for_research(const ClaimedMission& claimed, const std::string& decision,
                                core::Instant longest_wait, core::Instant now);

// Ends all runs of an engine: at shutdown, at a cancel, and for a dead engine. Missions become due
// again at `not_before`, or at once if it is null. Returns how many. Those that a user's
// transaction has locked are left to the recovery of dead engines or to the lease's end.
struct AbandonedRuns {
    const char* outcome;     // "canceled" or "crashed"
    const char* error_kind;  // why, for the run's row
    bool counts_as_failure;  // a mission that crashes its engine must back off
    std::optional<core::Instant> not_before;
};
int abandon_runs_of(uint32_t engine, const AbandonedRuns& how, core::Instant now,
                    const std::vector<std::string>& still_running = {});

// Runs that the database counts as running under this engine.
int running_runs_of(uint32_t engine);

}  // namespace mana_ai
