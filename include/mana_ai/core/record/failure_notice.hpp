// What a user is told when a mission of theirs does not run: a failed iteration without a plan,
// which clients show with a button to try again. docs/contract/data.md, Failure notices.
#pragma once

#include <string>
#include <string_view>

#include "mana_ai/core/text/json.hpp"
#include "mana_ai/core/time/instant.hpp"

namespace mana_ai::core {

// The kind of a failure that crashed the process.
inline constexpr char kCrashed[] = "crashed";

enum class NoticeCause {
    Failed,      // several runs in a row
    Encrypted,   // no grant that could be used
    Unopened,    // there is a grant, but it does not open the mission's texts
    Archived,    // the agent
    Budget,      // of the agent or mission, used up for a day
    UserBudget,  // of the user or of all together, likewise
};

// The word in mana_ai.mission_schedule.told: a user is told of each once before the next plan.
const char* name(NoticeCause cause) noexcept;

struct FailureNotice {
    std::string title;    // what the client shows first; short
    std::string summary;  // one sentence
    std::string message;  // what can be done
    std::string phase;    // one of the client's phases; empty = none fits
};

// German and fixed: no text of the user, no name, no text of a service. The error kind is that of
// the last failed run.
FailureNotice failure_notice(NoticeCause cause, std::string_view error_kind);

// {id, startedAt, finishedAt, plan: [], summary, overallStatus: "failed", source, errorDetails}.
Json build_failed_iteration(const FailureNotice& notice, std::string_view iteration_id,
                            Instant started_at, Instant finished_at);

}  // namespace mana_ai::core
