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

// One budget as it stands. All amounts have the same unit, whichever that is.
struct BudgetLimit {
    BudgetScope scope = BudgetScope::Agent;
    std::int64_t cap = 0;       // 0 = nothing may be used
    std::int64_t used = 0;      // in the last day
    std::int64_t reserved = 0;  // by calls of others that are under way
    std::int64_t wanted = 0;    // by the call that is judged; 0 = not known yet
};

enum class BudgetVerdict : std::uint8_t {
    Fits,    // the call may go out
    Busy,    // what is left is reserved: there may be room when those calls have ended
    UsedUp,  // nothing is left for as long as nothing expires
};

// What calls that are under way together may use fits in what is left. One that does not fit goes
// out all the same as long as something is left and no other call is under way: else a budget
// smaller than one call would be none. What is negative counts as 0.
BudgetVerdict judge(const BudgetLimit& limit) noexcept;

struct BudgetJudgement {
    BudgetVerdict verdict = BudgetVerdict::Fits;
    BudgetScope scope = BudgetScope::Agent;  // of the limit that decides, unless it fits
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

// The tokens that a call may use: its prompt, by the last one's tokens for a byte, else by a
// cautious number of them, and the longest reply. max_tokens as in the request, 0 = it has none.
std::int64_t estimated_tokens(std::size_t request_bytes, const MeasuredPrompt& last,
                              std::int64_t max_tokens) noexcept;

}  // namespace mana_ai::core
