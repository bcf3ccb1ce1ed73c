// A mission whose lease this process holds, with everything that its run needs from the database:
// no transaction stays open while the run waits for a model.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "mana_ai/core/planner/budget.hpp"
#include "mana_ai/core/planner/planner_loop.hpp"
#include "mana_ai/core/planner/reminders.hpp"
#include "mana_ai/core/record/failure_notice.hpp"
#include "mana_ai/core/record/records.hpp"
#include "mana_ai/extension/lease/lineage.hpp"
#include "mana_ai/extension/lease/research_jobs.hpp"
#include "mana_ai/extension/watch/tracing.hpp"

namespace mana_ai {

struct ClaimedMission {
    std::string user_id;
    std::string mission_id;
    std::string run_id;        // uuid; the lease and the row in mana_ai.runs
    std::string iteration_id;  // uuid of the iteration, should one be written
    core::Mission mission;
    std::optional<core::Agent> agent;
    std::optional<std::string> service_tier;  // of the agent's calls; nullopt = as for all agents
    int64_t agent_tokens_24h = 0;
    int64_t reserved = 0;         // tokens, for the first call
    bool reserved_alone = false;  // no other process used the budgets at the same time
    int64_t mission_version = 0;  // of the records that the run reads
    std::optional<int64_t> agent_version;
    std::string mission_clocks;  // of what prompts are made of; empty = unknown
    std::string agent_clocks;
    int64_t cut_reply_length = 0;   // tokens; of the last reply that a budget cut off; 0 = none
    int attempts = 0;               // failures in a row before this run
    std::string previous_decision;  // of the gates, at the last check; empty = none yet
    std::string plan_basis_digest;  // of the last plan; empty = unknown
    bool manual = false;            // by run_mission(), so it runs even if nothing has changed
    bool is_unread = false;         // its records are large: read_announced() reads and judges them
    bool is_suspect = false;        // likewise, and its last run crashed the process
    bool is_large = false;          // its records are large, and read: its write-back takes long
    // What the user is to be told about the closed gate; the run does nothing else.
    std::optional<core::NoticeCause> notice;
    std::optional<bool> wake_on_change;     // of its agent; nullopt = as for all
    std::optional<core::Instant> woken_at;  // when a changed input made it due
    std::optional<core::Instant> due_at;
    std::optional<core::Instant> runnable_since;  // if due: since when nothing held it back
    core::Instant started_at = 0;
    core::Instant lease_expires_at = 0;
    uint32_t engine = 0;  // number of the engine that holds the lease
    std::optional<ResearchJob> research_job;
    bool research_spent = false;  // no more long research before the next iteration
    TraceContext trace;           // of the run's span; set when the run starts
    // Of the mission's record; nullopt = unread. The run's end needs both, if the record has not
    // changed since.
    std::optional<core::Instant> newest_clock;
    core::Instant browser_run_until = 0;
};

// How a run ended; the values of mana_ai.runs.outcome.
enum class RunOutcome { Planned, Discarded, Failed, Skipped, Canceled };

const char* name(RunOutcome outcome) noexcept;

// Events of a run for metrics; complete up to the last one even if the run failed or was canceled.
struct RunEvents {
    struct SentReminder {
        const char* producer;
        core::Severity severity;
    };
    std::vector<core::JudgedCall> calls;
    std::vector<SentReminder> reminders;
    std::vector<int> compacted_turns;  // one per compaction: how many messages it replaced
    std::optional<core::BudgetJudgement> out_of_budget;  // the budget that ended the plan
    std::string asked_model;                             // by the last call of the planner
    Lineage lineage;
};

// The decision of a run that the model service could not serve.
inline constexpr char kSkippedService[] = "skipped-service";
// The decision of a run whose plan was thrown away because its records had changed. The plan of the
// next run is written.
inline constexpr char kSkippedOvertaken[] = "skipped-overtaken";
// The decision of a run that only tells the user that the mission's runs crash the process.
inline constexpr char kSkippedCrashing[] = "skipped-crashing";

struct RunResult {
    RunOutcome outcome = RunOutcome::Canceled;
    std::string decision = "ran";
    std::string iteration_id;    // set when an iteration was written
    std::string prompt_version;  // of prompt and offered tools; empty until they are known
    int rounds = 0;
    int steps = 0;
    int64_t prompt_tokens = 0;
    int64_t completion_tokens = 0;
    int64_t total_tokens = 0;
    std::string error_kind;     // empty = none
    std::string error_message;  // may quote the provider: for mana_ai.runs, never for a log
    RunEvents events;
};

}  // namespace mana_ai
