// Budgets: what may be used in a day, and what a call of the model may use of it.
// docs/contract/tick.md, Budgets.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

namespace mana_ai::core {

// Whose budget, in the order in which they are judged.
enum class BudgetScope : std::uint8_t { Agent, Mission, User, Total };

// "agent", "mission", "user", "total": a static string, a label of metrics.
const char* name(BudgetScope scope) noexcept;

// What a call may use: its prompt, and a reply up to the longest that it may get. The longest can
// be made shorter, down to `least_reply`: what is shorter still would be cut off and be no plan.
struct CallNeed {
    std::int64_t prompt = 0;
    std::int64_t reply = 0;
    std::int64_t least_reply = 0;

    std::int64_t total() const noexcept;
};

// One budget as it stands. All amounts have the same unit, whichever that is.
struct BudgetLimit {
    BudgetScope scope = BudgetScope::Agent;
    std::int64_t cap = 0;       // 0 = nothing may be used
    std::int64_t used = 0;      // in the last day
    std::int64_t reserved = 0;  // by calls of others that are under way
    CallNeed wanted;            // by the call that is judged
};

enum class BudgetVerdict : std::uint8_t {
    Fits,    // the call may go out
    Busy,    // what is left is reserved: there may be room when those calls have ended
    Short,   // what is left is less than the call needs, for as long as nothing expires
    UsedUp,  // nothing is left
};

// What calls that are under way together may use fits in what is left. One that does not fit, while
// no other is under way, gets a shorter reply. What is negative counts as 0.
BudgetVerdict judge(const BudgetLimit& limit) noexcept;

struct BudgetJudgement {
    BudgetVerdict verdict = BudgetVerdict::Fits;
    BudgetScope scope = BudgetScope::Agent;  // of the limit that decides, or shortens the reply
    double reply_share = 1;                  // of the longest reply, if it fits
};

// One that is used up decides, else one that is busy; of several the first.
BudgetJudgement judge(std::span<const BudgetLimit> limits) noexcept;

// What is known of a reply of the same conversation.
struct MeasuredPrompt {
    std::size_t bytes = 0;    // of the request
    std::int64_t tokens = 0;  // of its prompt, as the reply says; 0 = it does not
};

// What a reply is taken to have at most when the request does not limit it.
inline constexpr std::int64_t kUnlimitedReply = 16'384;

// A plan is not worth asking for with less.
inline constexpr std::int64_t kShortestReply = 256;

// The tokens that a call may use: its prompt, by the last one's tokens for a byte, else by a
// cautious number of them, and the longest reply. max_tokens as in the request, 0 = it has none and
// its reply cannot be made shorter.
CallNeed estimated_tokens(std::size_t request_bytes, const MeasuredPrompt& last,
                          std::int64_t max_tokens) noexcept;

// What a request asks for as its longest reply; 0 = it does not say.
std::int64_t max_tokens_of(const CallNeed& need, double reply_share,
                           std::int64_t max_tokens) noexcept;

}  // namespace mana_ai::core
