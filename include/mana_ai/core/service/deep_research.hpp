// Research that takes minutes and money, over several runs of a mission.
// docs/contract/inputs.md, Deep research across ticks.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

#include "mana_ai/core/record/resolved_input.hpp"
#include "mana_ai/core/time/instant.hpp"

namespace mana_ai::core {

inline constexpr const char* kDeepResearchProvider = "gemini-deep-research-max";
inline constexpr const char* kDeepResearchPath = "/api/v1/internal/research/async";

inline constexpr std::size_t kMaxTaskId = 200;             // in bytes
inline constexpr std::size_t kMaxResearchAnswer = 60'000;  // in characters
inline constexpr std::size_t kMaxCitations = 50;

// How many runs may plan with the same answer before it is given up: if planning fails, the paid
// answer is kept for the next run.
inline constexpr int kMaxOffersOfAnAnswer = 3;

// The body of a submission. `query` is one of research_query().
std::string submit_request(std::string_view query);

// kDeepResearchPath, a slash and the task id, percent-encoded.
std::string task_path(std::string_view task_id);

struct ResearchTask {
    std::string task_id;
    std::string provider_id;             // empty if the service did not say
    std::optional<double> cost_credits;  // finite, at least 0
};

// nullopt: not accepted, or without a task id that can be polled (1 to kMaxTaskId printable ASCII
// characters without spaces, not "." or "..").
std::optional<ResearchTask> parse_submission(int http_status, std::string_view body);

enum class ResearchStatus {
    Pending,      // queued or running
    Completed,    // with an answer
    Failed,       // failed, cancelled, unknown to the service, or completed without an answer
    Unreachable,  // no usable response; may change at the next poll
};

struct ResearchPoll {
    ResearchStatus status = ResearchStatus::Unreachable;
    std::optional<ResolvedInput> answer;  // set if and only if completed
};

// The reply to a poll. A transport failure has no reply; it is Unreachable.
ResearchPoll parse_poll(int http_status, std::string_view body);

// What is stored of a job that has a task id.
enum class ResearchJobState {
    Waiting,  // the last poll did not bring an answer: polled when due
    Ready,    // there is an answer, but no iteration has been written with it yet
};

// "waiting", "ready"; a static string.
const char* name(ResearchJobState state) noexcept;

// The inverse; nullopt for any other text.
std::optional<ResearchJobState> research_job_state_from_name(std::string_view text) noexcept;

enum class ResearchStep {
    Submit,       // record the intent, then submit; if that is refused: PlanShallow
    Poll,         // ask the service, then decide again with its reply
    Wait,         // keep the job, plan nothing in this run
    UseAnswer,    // plan with the answer; the write-back deletes the job
    PlanShallow,  // delete the job if there is one; plan now, with shallow research if wanted
};

struct ResearchSituation {
    bool gates_open = false;   // the setting is on and wants_deep_research()
    bool has_job = false;      // a row in mana_ai.mission_research_jobs
    bool has_task_id = false;  // false: a crash came between intent and the service's reply
    std::optional<ResearchStatus> poll = std::nullopt;  // this run's; nullopt = not polled yet
    Instant age = 0;                                    // microseconds since the submission
    Instant timeout = 0;    // microseconds, mana_ai.deep_research_timeout
    int times_offered = 0;  // runs that began to plan with the answer so far
};

// The contract's table. A paid job is followed to its end even if the gates have closed since.
ResearchStep next_research_step(const ResearchSituation& situation) noexcept;

}  // namespace mana_ai::core
