#include "mana_ai/core/planner/planner_loop.hpp"

#include <algorithm>
#include <utility>

#include "mana_ai/core/planner/compaction.hpp"
#include "mana_ai/core/planner/injection.hpp"
#include "mana_ai/core/text/ascii.hpp"
#include "mana_ai/core/text/json.hpp"
#include "mana_ai/core/text/utf8.hpp"

namespace mana_ai::core {

namespace {

constexpr const char* kUnknown = "unknown";
constexpr const char* kDeferred = "deferred";
constexpr const char* kRejected = "rejected";
constexpr std::size_t kMaxListedSteps = 5;
constexpr std::size_t kMaxToolName = 64;

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

// The assistant turn for the history. Providers refuse a request whose history contains an invalid
// function name, and one such name must not end the run.
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

ToolVerdict refused_for(InjectionMarker marker) {
    ToolVerdict verdict;
    verdict.message = std::string("Der Aufruf ist abgelehnt: In den Argumenten steht ") +
                      describe(marker) +
                      ". Das sieht nach einer eingeschleusten Anweisung aus. Schreib den Text "
                      "anders oder lass den Aufruf weg.";
    verdict.reject_reason = "injection-marker";
    return verdict;
}

}  // namespace

PlannerLoop::PlannerLoop(std::string_view system_prompt, std::string_view user_prompt,
                         OfferedTools tools)
    : tools_(std::move(tools)) {
    transcript_.add(Role::System, system_message(system_prompt));
    transcript_.add(Role::User, user_message(user_prompt));
}

ChatBody PlannerLoop::request_body(std::string_view model, const std::vector<Reminder>& reminders,
                                   std::int64_t max_tokens, const ServiceWishes& wishes) const {
    return build_chat_request({model, transcript_.messages(), tools_.tools_json(), kTemperature,
                               max_tokens, reminders_text(reminders), wishes});
}

std::size_t PlannerLoop::request_size() const noexcept {
    std::size_t size = tools_.tools_json().size();
    for (const std::string& message : transcript_.messages()) {
        size += message.size() + 1;
    }
    return size;
}

LoopState PlannerLoop::state() const {
    LoopState state;
    state.round = rounds_ + 1;
    state.tool_calls = static_cast<int>(calls_.size());
    state.usage = usage_;
    state.compactions = compactions_;
    for (std::size_t i = calls_.size() - std::min(calls_.size(), kReminderWindow);
         i < calls_.size(); ++i) {
        state.last_calls.push_back(std::string_view(calls_[i].outcome) == kDeferred);
    }
    return state;
}

bool PlannerLoop::compaction_due(std::int64_t max_tokens) const noexcept {
    return !finished_ && !compaction_tried_ && is_compaction_due(usage_.total, max_tokens) &&
           !foldable_messages(transcript_).empty();
}

std::string PlannerLoop::compaction_request(std::string_view model, std::int64_t max_tokens,
                                            const ServiceWishes& wishes) const {
    return build_compaction_request(model, transcript_, foldable_messages(transcript_), max_tokens,
                                    wishes);
}

std::size_t PlannerLoop::on_compaction(const ModelReply& reply) {
    usage_ += reply.usage;
    compaction_tried_ = true;
    const MessageRange folded = foldable_messages(transcript_);
    const std::optional<std::string> summary = read_summary(reply.content);
    if (failure_in(reply) || !summary || folded.empty()) {
        return 0;
    }
    transcript_.replace(folded.begin, folded.end, Role::Assistant, summary_message(*summary));
    transcript_.insert(folded.begin + 1, Role::User, continue_message());
    ++compactions_;
    return folded.size();
}

void PlannerLoop::on_broken_reply(const ModelReply& reply) noexcept {
    usage_ += reply.usage;
    ++rounds_;
}

void PlannerLoop::on_reply(const ModelReply& reply, PolicyMode mode) {
    usage_ += reply.usage;
    if (finished_) {
        return;
    }
    ++rounds_;
    transcript_.add(Role::Assistant, history_message(reply));
    if (reply.tool_calls.empty()) {
        model_summary_ = cut_utf8(ascii::trimmed(repair_utf8(reply.content)), kMaxSummary);
        finished_ = true;
        return;
    }
    for (const ToolCallRequest& call : reply.tool_calls) {
        judge(call, mode);
    }
    if (rounds_ >= kMaxRounds) {
        end_early("Die Planung endete nach " + std::to_string(kMaxRounds) + " Runden.");
    }
}

void PlannerLoop::judge(const ToolCallRequest& call, PolicyMode mode) {
    const Tool* tool = tools_.find(call.name);
    const auto marker =
        mode == PolicyMode::Off ? std::nullopt : find_injection_marker_in_text(call.arguments);
    ToolVerdict verdict = marker && mode == PolicyMode::Enforce
                              ? refused_for(*marker)
                              : judge_tool_call(tools_, call, steps_);
    transcript_.add(Role::Tool, tool_message(call.id, tool_answer(verdict)));
    calls_.push_back({tool != nullptr ? tool->name : kUnknown,
                      tool != nullptr ? name(tool->default_policy) : kUnknown,
                      verdict.accepted ? kDeferred : kRejected, verdict.reject_reason,
                      marker.has_value()});
    if (verdict.accepted) {
        steps_.push_back(make_plan_step(*tool, std::move(verdict.params)));
    }
}

void PlannerLoop::end_early(std::string_view german_reason) {
    if (!finished_) {
        end_reason_ = ascii::trimmed(repair_utf8(german_reason));
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
