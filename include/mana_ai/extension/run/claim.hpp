// Taking due missions: gates, leases and the record of the attempt, in one short transaction before
// anything is spent (docs/contract/tick.md, Gates).
#pragma once

#include <functional>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "mana_ai/core/planner/fair_turns.hpp"
#include "mana_ai/extension/lease/claimed_mission.hpp"
#include "mana_ai/extension/lease/stops.hpp"

namespace mana_ai {

using AgentKey = std::pair<std::string, std::string>;  // user_id, agent_id

struct ClaimRequest {
    core::Instant now = 0;        // the start of the runs
    core::Instant due_until = 0;  // missions due by then
    int limit = 0;                // the maximum of rows that are read
    uint32_t engine = 0;          // becomes the lease's owner
    core::Instant lease_expires_at = 0;
    // Whether a run of this engine is still active. Its lease is extended if it has expired: the
    // clock was set forward, or the process was suspended.
    std::function<bool(const std::string& run_id)> still_running;
    core::Instant look_again_at = 0;  // for missions that a gate holds back; not for research
    // Whether large records of missions whose last run crashed the process may be read. One at a
    // time, so that another crash is attributed to the right one.
    bool may_read_suspect = true;
    // Whose turn it is; null = users do not take turns, the mission that has been due longest goes
    // first.
    core::FairTurns* turns = nullptr;
    int users_to_look_at = 0;      // the maximum per claim; further users get their turn later
    const Stops* stops = nullptr;  // what operators have stopped; null = nothing
    // Missions of an agent that this tick has started; null = only those that run now count.
    std::map<AgentKey, int>* started_by_agent = nullptr;
};

struct SkippedMission {
    std::string user_id;
    std::string mission_id;
    std::string agent_id;  // empty = none
    std::string decision;
};

struct ClaimResult {
    bool there_may_be_more = false;
    bool suspects_left = false;      // due, but skipped until no other suspect is being read
    bool held_back = false;          // due, but their users have the maximum running
    bool locked_in_the_way = false;  // some whose turn it was are locked by other transactions
    int due = 0;
    std::vector<ClaimedMission> claimed;
    std::vector<SkippedMission> skipped;
    std::vector<std::string> prolonged;  // own runs, until:
    core::Instant lease_expires_at = 0;
};

// Claims due missions. Rows that another process has locked are skipped. Runs in the current
// transaction, which the caller commits before it starts the runs. Missions with large records are
// claimed unread: the attempt is on disk before anything of them is read.
ClaimResult claim_due_missions(const ClaimRequest& request);

// Claims one mission whether due or not. Throws PgError: 02000 if there is no such mission, 55006
// if it is already running.
ClaimResult claim_mission(const ClaimRequest& request, const std::string& user_id,
                          const std::string& mission_id);

// Reads a mission that was claimed unread and claims it again, or holds it back, in the current
// transaction; the row of the first run is deleted. Nullopt: the row is locked, try again later.
std::optional<ClaimResult> read_announced(const ClaimRequest& request,
                                          const ClaimedMission& announced);

}  // namespace mana_ai
