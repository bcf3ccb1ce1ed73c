// The rows of mana_ai.mission_research_jobs: which tasks of mana-research belong to which missions
// (docs/contract/inputs.md, Deep research across ticks; docs/architecture.md, "Deep research").
//
// Every function runs in the current transaction. To change both a schedule row and a job, lock the
// schedule row first.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "mana_ai/core/service/deep_research.hpp"
#include "mana_ai/core/time/instant.hpp"

namespace mana_ai {

// Concurrent polls in one process.
inline constexpr int kMaxResearchPolls = 500;

struct ResearchJob {
    std::string task_id;                                             // empty = an intent
    core::ResearchJobState state = core::ResearchJobState::Waiting;  // of a job with a task id
    core::Instant waiting_since = 0;                                 // likewise
    int offered = 0;  // runs that were to use the answer
};

// Whether a job has waited for longer than mana_ai.deep_research_timeout.
bool has_waited_too_long(core::Instant waiting_since, core::Instant now);

// When a job that was polled at `now` is polled again. A bit less than the tick interval, so that
// an early tick does not leave it to the next one.
core::Instant next_poll_after(core::Instant now);

// ---------------------------------------------------------------- runs, which hold the lease

// Records that research is about to be ordered; false = there is a job already.
bool intend_research(const std::string& user_id, const std::string& mission_id,
                     const std::string& run_id, core::Instant now);

// Turns this run's intent into a waiting job; false = the intent no longer exists.
bool store_submission(const std::string& user_id, const std::string& mission_id,
                      const std::string& run_id, const core::ResearchTask& task, core::Instant now);

// Counts the run that is about to use the answer, which makes a waiting job a ready one. False =
// the task is no longer this mission's.
bool offer_research(const std::string& user_id, const std::string& mission_id,
                    const std::string& task_id, core::Instant now);

// The run was to use the answer and could not plan, without fault of the mission: it does not
// count. `may_be_cause`: because the model service failed, and possibly only because of the answer.
void give_research_offer_back(const std::string& user_id, const std::string& mission_id,
                              const std::string& task_id, bool may_be_cause);

// False: the model service has failed with this answer several times, and for longer than
// deep_research_timeout. It may be the answer, so such a run is one that has failed.
bool may_give_research_back(const std::string& user_id, const std::string& mission_id,
                            const std::string& task_id, core::Instant now);

// A ready answer that could not be fetched: the mission waits for it again, and the run does not
// count.
void await_research_again(const std::string& user_id, const std::string& mission_id,
                          const std::string& task_id, core::Instant now);

// The answer is part of an iteration that is written in the same transaction: the next iteration
// may order research again.
void close_research(const std::string& user_id, const std::string& mission_id);

// ---------------------------------------------------------------- runs and polls

// Records a poll of mana-research without an answer.
void note_poll(const std::string& user_id, const std::string& mission_id,
               const std::string& task_id, core::Instant now);

// Records, and counts in metrics, that the answer is there for the first time; finish_research()
// calls it.
void note_completed_research(const std::string& user_id, const std::string& mission_id,
                             core::Instant now);

// Deletes the job and records in the schedule that no more research is to be ordered before the
// next iteration; a mission that waits for it is due now. An intent has no task id; with a run_id
// only that run's intent is deleted. False = there was no such job.
bool give_up_research(const std::string& user_id, const std::string& mission_id,
                      const std::string& task_id, const std::string& run_id = {});

// ---------------------------------------------------------------- polls

struct DueResearch {
    std::string user_id;
    std::string mission_id;
    std::string task_id;
    core::Instant waiting_since = 0;
};

// When the next waiting job is to be polled; nullopt = none waits.
std::optional<core::Instant> next_research_poll_at();

// Takes at most `limit` jobs that are to be polled by `due_until`, and moves their next poll. Jobs
// of missions that are deleted, done or archived are deleted instead.
std::vector<DueResearch> take_due_research(core::Instant due_until, int limit, core::Instant now);

// The answer is there: the mission that waits for it is due now. False = the job no longer waits
// for this task. Throws (55P03) instead of waiting for another transaction.
bool finish_research(const DueResearch& due);

// Deletes jobs that nobody waits for and whose mission is deleted, done or archived; a limited
// number per call.
void delete_orphaned_research(core::Instant now);

}  // namespace mana_ai
