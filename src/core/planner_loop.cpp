#include "mana_ai/core/planner_loop.hpp"

#include <algorithm>
#include <utility>

#include "mana_ai/core/json.hpp"

namespace mana_ai::core {

namespace {

constexpr const char* kUnknown = "unknown";
constexpr std::size_t kMaxListedSteps = 5;
constexpr std::size_t kMaxToolName = 64;

std::string trimmed(std::string_view text) {
    constexpr std::string_view kSpace = " \t\r\n";
    const std::size_t begin = text.find_first_not_of(kSpace);
    if (begin == std::string_view::npos) {
        return {};
    }
    return std::string(text.substr(begin, text.find_last_not_of(kSpace) - begin + 1));
}

// A name that providers accept in the history; the answer to the call quotes the real one.
std::string presentable_name(std::string_view name) {
    std::string presentable(name.substr(0, kMaxToolName));
    for (char& c : presentable) {
        if (!is_valid_tool_name({&c, 1})) {
            c = '_';
        }
    }
    return presentable.empty() ? kUnknown : presentable;
}

// The assistant turn for the history. Providers refuse a request whose history holds a function
// name that could not be declared, and one such name must not end the run.
std::string history_message(const ModelReply& reply) {
    const bool all_valid =
        std::all_of(reply.tool_calls.begin(), reply.tool_calls.end(),
                    [](const ToolCallRequest& call) { return is_valid_tool_name(call.name); });
    if (all_valid) {
        return assistant_message(reply);
    }
    ModelReply presentable = reply;
    for (ToolCallRequest& call : presentable.tool_calls) {
        if (!is_valid_tool_name(call.name)) {
            call.name = presentable_name(call.name);
        }
    }
    return assistant_message(presentable);
}

std::string account_of(const std::vector<PlanStep>& steps) {
    if (steps.empty()) {
        return "Es wurde kein Schritt vorgeschlagen.";
    }
    std::string text = steps.size() == 1 ? "Ein Schritt vorgeschlagen"
                                         : std::to_string(steps.size()) + " Schritte vorgeschlagen";
    for (std::size_t i = 0; i < std::min(steps.size(), kMaxListedSteps); ++i) {
        text += (i == 0 ? ": " : "; ") + steps[i].summary;
    }
    return text + (steps.size() > kMaxListedSteps ? "; …" : ".");
}

}  // namespace

PlannerLoop::PlannerLoop(std::string_view system_prompt, std::string_view user_prompt,
                         OfferedTools tools)
    : tools_(std::move(tools)) {
    transcript_.add(Role::System, system_message(system_prompt));
    transcript_.add(Role::User, user_message(user_prompt));
}

std::string PlannerLoop::request_body(std::string_view model) const {
    return build_chat_request({model, transcript_.messages(), tools_.tools_json(), kTemperature});
}

void PlannerLoop::on_reply(const ModelReply& reply) {
    usage_.prompt += reply.usage.prompt;
    usage_.completion += reply.usage.completion;
    usage_.total += reply.usage.total;
    if (finished_) {
        return;
    }
    ++rounds_;
    transcript_.add(Role::Assistant, history_message(reply));
    if (reply.tool_calls.empty()) {
        model_summary_ = cut_utf8(trimmed(repair_utf8(reply.content)), kMaxSummary);
        finished_ = true;
        return;
    }
    for (const ToolCallRequest& call : reply.tool_calls) {
        judge(call);
    }
    if (rounds_ >= kMaxRounds) {
        end_early("Die Planung endete nach " + std::to_string(kMaxRounds) + " Runden.");
    }
}

void PlannerLoop::judge(const ToolCallRequest& call) {
    const Tool* tool = tools_.find(call.name);
    ToolVerdict verdict = judge_tool_call(tools_, call, steps_);
    transcript_.add(Role::Tool, tool_message(call.id, tool_answer(verdict)));
    calls_.push_back({tool != nullptr ? tool->name : kUnknown,
                      tool != nullptr ? name(tool->default_policy) : kUnknown,
                      verdict.accepted ? "deferred" : "rejected", verdict.reject_reason});
    if (verdict.accepted) {
        steps_.push_back(make_plan_step(*tool, std::move(verdict.params)));
    }
}

void PlannerLoop::end_early(std::string_view german_reason) {
    if (!finished_) {
        end_reason_ = trimmed(repair_utf8(german_reason));
        finished_ = true;
    }
}

std::string PlannerLoop::summary() const {
    if (!model_summary_.empty()) {
        return model_summary_;
    }
    const std::string account = account_of(steps_);
    return cut_utf8(end_reason_.empty() ? account : end_reason_ + " " + account, kMaxSummary);
}

}  // namespace mana_ai::core
