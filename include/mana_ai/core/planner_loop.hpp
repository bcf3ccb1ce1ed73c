// The conversation with the model that makes one plan. docs/contract/tick.md, Planner loop.
//
// Pure decisions: the caller sends request_body(), records the usage of the reply and feeds it back
// with on_reply(), until finished().
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "mana_ai/core/model_wire.hpp"
#include "mana_ai/core/plan.hpp"
#include "mana_ai/core/tool_call.hpp"
#include "mana_ai/core/tool_catalog.hpp"
#include "mana_ai/core/transcript.hpp"

namespace mana_ai::core {

// One judged call, for metrics and for what later rounds say about it.
struct JudgedCall {
    std::string tool;     // "unknown" if it was not offered: models invent names without end
    const char* policy;   // the tool's default policy; "unknown" likewise
    const char* outcome;  // "deferred" (a plan step) or "rejected"
    const char* reason;   // ToolVerdict::reject_reason
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
    std::string request_body(std::string_view model) const;

    // Takes the model's next reply. Ignored when finished(), except for its usage, which was paid.
    void on_reply(const ModelReply& reply);

    // Ends with the steps it has, for instance at the agent's budget. The reason is a German
    // sentence that opens the summary. Nothing happens when finished().
    void end_early(std::string_view german_reason);

    int rounds() const noexcept { return rounds_; }
    const std::vector<PlanStep>& steps() const noexcept { return steps_; }
    const std::vector<JudgedCall>& calls() const noexcept { return calls_; }
    const Transcript& transcript() const noexcept { return transcript_; }

    // Of all replies together.
    const Usage& usage() const noexcept { return usage_; }

    // The model's words, else a German account of the steps. Valid UTF-8 without U+0000, at most
    // kMaxSummary characters, never empty.
    std::string summary() const;

 private:
    void judge(const ToolCallRequest& call);

    OfferedTools tools_;
    Transcript transcript_;
    std::vector<PlanStep> steps_;
    std::vector<JudgedCall> calls_;
    Usage usage_;
    std::string model_summary_;
    std::string end_reason_;
    int rounds_ = 0;
    bool finished_ = false;
};

}  // namespace mana_ai::core
