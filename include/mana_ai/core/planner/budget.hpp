// Budgets: how much may be used in a day, and how much a call of the model may use of that.
// docs/contract/tick.md, Budgets.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

namespace mana_ai::core {

// Whose budget, in the order in which they are checked.
enum class BudgetScope : std::uint8_t { Agent, Mission, User, Total };

// "agent", "mission", "user", "total": a static string, a label of metrics.
const char* name(BudgetScope scope) noexcept;

// What a call may use: its prompt and its longest reply. The longest reply can be reduced down to
// `least_reply`: an even shorter reply would be cut off and give no plan.
struct CallNeed {
    std::int64_t prompt = 0;
    std::int64_t reply = 0;
    std::int64_t least_reply = 0;

    std::int64_t total() const noexcept;
};

// The current state of one budget. All amounts have the same unit.
struct BudgetLimit {
    BudgetScope scope = BudgetScope::Agent;
    std::int64_t cap = 0;       // 0 = nothing may be used
    std::int64_t used = 0;      // in the last day
    std::int64_t reserved = 0;  // by others' calls in flight
    CallNeed wanted;            // by the call that is judged
};

enum class BudgetVerdict : std::uint8_t {
    Fits,    // the call may be sent
    Busy,    // the rest is reserved: there may be room when those calls have ended
    Short,   // the rest is less than the call needs, until older use expires
    UsedUp,  // nothing is left
};

// Calls in flight must fit together into the rest of the budget. A call that does not fit while no
// other is in flight gets a shorter reply. Negative amounts count as 0.
BudgetVerdict judge(const BudgetLimit& limit) noexcept;

struct BudgetJudgement {
    BudgetVerdict verdict = BudgetVerdict::Fits;
    BudgetScope scope = BudgetScope::Agent;  // of the limit that decides, or shortens the reply
    double reply_share = 1;                  // of the longest reply, if it fits
};

// A limit that is used up decides, else one that is busy; the first of several.
BudgetJudgement judge(std::span<const BudgetLimit> limits) noexcept;

// What is known from a reply of the same conversation.
struct MeasuredPrompt {
    std::size_t bytes = 0;    // of the request
    std::int64_t tokens = 0;  // of its prompt, as the reply says; 0 = not said
};

// The assumed maximum of a reply that the request does not limit.
inline constexpr std::int64_t kUnlimitedReply = 16'384;

// With less, a call cannot give a plan.
inline constexpr std::int64_t kShortestReply = 256;

// The tokens that a call may use: its prompt, by the last one's tokens per byte or else a cautious
// estimate, and the longest reply. max_tokens as in the request; 0 = it has none, and its reply
// cannot be shortened.
CallNeed estimated_tokens(std::size_t request_bytes, const MeasuredPrompt& last,
                          std::int64_t max_tokens) noexcept;

// The request's limit of its reply; 0 = none.
std::int64_t max_tokens_of(const CallNeed& need, double reply_share,
                           std::int64_t max_tokens) noexcept;

}  // namespace mana_ai::core
