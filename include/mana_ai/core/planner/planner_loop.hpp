// The conversation with the model that makes one plan. docs/contract/tick.md, Planner loop.
//
// Pure decisions: the caller sends request_body(), records the usage of the reply and feeds it back
// with on_reply(), until finished(). Before each call it asks for compaction_due() and state().
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "mana_ai/core/planner/plan.hpp"
#include "mana_ai/core/planner/reminders.hpp"
#include "mana_ai/core/planner/tool_call.hpp"
#include "mana_ai/core/planner/tool_catalog.hpp"
#include "mana_ai/core/planner/transcript.hpp"
#include "mana_ai/core/record/policy.hpp"
#include "mana_ai/core/service/model_wire.hpp"

namespace mana_ai::core {

// One judged call, for metrics and later rounds.
struct JudgedCall {
    std::string tool;     // "unknown" if it was not offered: models invent names without end
    const char* policy;   // the tool's default policy; "unknown" likewise
    const char* outcome;  // "deferred" (a plan step) or "rejected"
    // ToolVerdict::reject_reason, or "injection-marker"
    const char* reason;
    bool flagged;  // the arguments carry an injection marker
};

class PlannerLoop {
 public:
    static constexpr int kMaxRounds = 5;
    static constexpr int kMaxSteps = static_cast<int>(kMaxPlanSteps);
    static constexpr std::size_t kMaxSummary = 4'000;  // characters
    static constexpr double kTemperature = 0.3;

    PlannerLoop(std::string_view system_prompt, std::string_view user_prompt, OfferedTools tools);

    // No further request is due; steps and summary are final.
    bool finished() const noexcept { return finished_; }

    // The body of the next request. Only while not finished().
    // The reminders are at the end of its last message, and in no later request. max_tokens limits
    // the reply; 0 = the model's own limit.
    ChatBody request_body(std::string_view model, const std::vector<Reminder>& reminders = {},
                          std::int64_t max_tokens = 0, const ServiceWishes& wishes = {}) const;

    // The approximate length of that request in bytes.
    std::size_t request_size() const noexcept;

    // Takes the model's next reply. Ignored when finished(), except for its usage, which was paid.
    void on_reply(const ModelReply& reply, PolicyMode mode = PolicyMode::LogOnly);

    // A reply that cannot be used: it took a round, and its usage was paid for.
    void on_broken_reply(const ModelReply& reply) noexcept;

    // The state that reminders are made from, without what belongs to the agent.
    LoopState state() const;

    // Whether the older messages should be replaced by a summary before the next request: the run
    // has used up its context, there are older messages, and it was not tried before.
    bool compaction_due(std::int64_t max_tokens) const noexcept;

    // The body of the request for that summary. Only while compaction_due().
    std::string compaction_request(std::string_view model, std::int64_t max_tokens = 0,
                                   const ServiceWishes& wishes = {}) const;

    // Takes the summary and returns how many messages it replaced. A reply without text, or a
    // failed call, leaves the history unchanged: 0. In both cases compaction_due() stays false.
    // The reply's usage was paid for and counts.
    std::size_t on_compaction(const ModelReply& reply);
    void on_failed_compaction() noexcept { compaction_tried_ = true; }

    // Ends with the steps so far, for example at the agent's budget. The reason is a German
    // sentence that begins the summary. No effect when finished().
    void end_early(std::string_view german_reason);

    int rounds() const noexcept { return rounds_; }
    const std::vector<PlanStep>& steps() const noexcept { return steps_; }
    const std::vector<JudgedCall>& calls() const noexcept { return calls_; }
    const Transcript& transcript() const noexcept { return transcript_; }

    // Of all replies together, that of a compaction included.
    const Usage& usage() const noexcept { return usage_; }

    // The model's summary, else a German list of the steps. Valid UTF-8 without U+0000, at most
    // kMaxSummary characters, never empty.
    std::string summary() const;

 private:
    void judge(const ToolCallRequest& call, PolicyMode mode);

    OfferedTools tools_;
    Transcript transcript_;
    std::vector<PlanStep> steps_;
    std::vector<JudgedCall> calls_;
    Usage usage_;
    std::string model_summary_;
    std::string end_reason_;
    int rounds_ = 0;
    int compactions_ = 0;
    bool compaction_tried_ = false;
    bool finished_ = false;
};

}  // namespace mana_ai::core
