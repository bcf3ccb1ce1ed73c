#include "mana_ai/core/planner/reminders.hpp"

#include <algorithm>
#include <limits>
#include <utility>

#include "mana_ai/core/planner/prompts.hpp"
#include "mana_ai/core/text/json.hpp"
#include "mana_ai/core/text/utf8.hpp"

namespace mana_ai::core {

namespace {

constexpr std::size_t kMaxAgentName = 120;  // characters
constexpr int kFirstRetryRound = 3;

std::string presented_agent(const std::string& name) {
    std::string line = neutralise_tags(cut_utf8(name, kMaxAgentName));
    std::replace(line.begin(), line.end(), '\n', ' ');
    return line.empty() ? "Der Agent" : "Der Agent „" + line + "“";
}

// Of non-negative numbers; saturates.
std::int64_t sum(std::int64_t a, std::int64_t b) noexcept {
    a = std::max<std::int64_t>(a, 0);
    b = std::max<std::int64_t>(b, 0);
    constexpr std::int64_t kLargest = std::numeric_limits<std::int64_t>::max();
    return a > kLargest - b ? kLargest : a + b;
}

// Rounded down, so that 100 is not shown too early.
std::int64_t percent(std::int64_t part, std::int64_t whole) noexcept {
    constexpr std::int64_t kLargest = std::numeric_limits<std::int64_t>::max();
    const auto value =
        static_cast<unsigned __int128>(part) * 100U / static_cast<unsigned __int128>(whole);
    return value > static_cast<unsigned __int128>(kLargest) ? kLargest
                                                            : static_cast<std::int64_t>(value);
}

}  // namespace

const char* name(Severity severity) noexcept {
    switch (severity) {
        case Severity::Info:
            return "info";
        case Severity::Warn:
            return "warn";
        case Severity::Escalate:
            break;
    }
    return "escalate";
}

std::optional<Reminder> compacted_reminder(const LoopState& state) {
    if (state.compactions == 0) {
        return std::nullopt;
    }
    return Reminder{"compacted", Severity::Info,
                    "Ältere Teile dieses Gesprächs sind durch eine Zusammenfassung ersetzt. "
                    "Arbeite mit ihr weiter und frage nicht nach Einzelheiten, die darin fehlen."};
}

std::optional<Reminder> token_budget_reminder(const LoopState& state) {
    const std::int64_t cap = state.cap.value_or(0);
    const std::int64_t used = sum(state.tokens_before_run, state.usage.total);
    // used / cap >= 3/4 in whole numbers.
    if (cap <= 0 || used < cap - cap / 4) {
        return std::nullopt;
    }
    const std::string account = presented_agent(state.agent_name) + " hat " + std::to_string(used) +
                                " von " + std::to_string(cap) +
                                " Token seines Tagesbudgets verbraucht (" +
                                std::to_string(percent(used, cap)) + " %). ";
    if (used < cap) {
        return Reminder{"token-budget", Severity::Warn,
                        account + "Plane sparsam: nur noch die wichtigsten Schritte."};
    }
    return Reminder{"token-budget", Severity::Escalate,
                    account +
                        "Das Budget ist aufgebraucht: Schließe jetzt mit einer "
                        "Zusammenfassung ab und rufe keine Funktion mehr auf."};
}

std::optional<Reminder> retry_loop_reminder(const LoopState& state) {
    const std::vector<bool>& calls = state.last_calls;
    if (state.round < kFirstRetryRound || calls.size() < 2 || calls.back() ||
        calls[calls.size() - 2]) {
        return std::nullopt;
    }
    return Reminder{"retry-loop", Severity::Warn,
                    "Die letzten beiden Funktionsaufrufe sind gescheitert. Wiederhole sie nicht, "
                    "sondern erkläre in einer Zusammenfassung, was nicht gelungen ist."};
}

std::vector<Reminder> reminders(const LoopState& state) {
    std::vector<Reminder> due;
    for (const auto producer : {compacted_reminder, token_budget_reminder, retry_loop_reminder}) {
        if (std::optional<Reminder> reminder = producer(state)) {
            due.push_back(std::move(*reminder));
        }
    }
    return due;
}

std::string reminders_text(const std::vector<Reminder>& reminders) {
    std::string text;
    for (const Reminder& reminder : reminders) {
        text += (text.empty() ? "" : "\n") + ("<reminder>" + reminder.text + "</reminder>");
    }
    return text;
}

}  // namespace mana_ai::core
