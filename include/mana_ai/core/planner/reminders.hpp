// Hints at the end of a request to the model. docs/contract/tick.md, Reminders.
//
// They are made for each request and never enter the history, since they would be wrong a round
// later.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "mana_ai/core/service/model_wire.hpp"

namespace mana_ai::core {

// How many of the last calls a producer sees.
inline constexpr std::size_t kReminderWindow = 5;

// What the producers check before a model call.
struct LoopState {
    int round = 1;                 // number of the request that is about to be made, from 1
    int tool_calls = 0;            // so far
    Usage usage;                   // of this run
    std::vector<bool> last_calls;  // the last kReminderWindow, oldest first; true = accepted
    int compactions = 0;
    std::string agent_name;              // as the user wrote it; empty = none
    std::optional<std::int64_t> cap;     // the agent's tokens per day; nullopt or 0 = no reminder
    std::int64_t tokens_before_run = 0;  // of the agent in 24 hours, without this run's
};

enum class Severity { Info, Warn, Escalate };

// "info", "warn", "escalate": a static string, a label of metrics.
const char* name(Severity severity) noexcept;

struct Reminder {
    const char* producer;  // "compacted", "token-budget" or "retry-loop"; a static string
    Severity severity = Severity::Info;
    std::string text;  // German; safe between our tags
};

// The producers; nullopt = nothing to say.
std::optional<Reminder> compacted_reminder(const LoopState& state);
std::optional<Reminder> token_budget_reminder(const LoopState& state);
std::optional<Reminder> retry_loop_reminder(const LoopState& state);

// Of all producers, in the contract's order.
std::vector<Reminder> reminders(const LoopState& state);

// One <reminder>…</reminder> per line; empty without reminders.
std::string reminders_text(const std::vector<Reminder>& reminders);

}  // namespace mana_ai::core
