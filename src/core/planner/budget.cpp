#include "mana_ai/core/planner/budget.hpp"

#include <algorithm>
#include <limits>

namespace mana_ai::core {

namespace {

constexpr std::int64_t kLargest = std::numeric_limits<std::int64_t>::max();

// Tokens of English and of JSON have about four bytes, of German three, of other scripts fewer.
constexpr std::size_t kBytesOfToken = 3;

std::int64_t sum(std::int64_t a, std::int64_t b) noexcept {
    a = std::max<std::int64_t>(a, 0);
    b = std::max<std::int64_t>(b, 0);
    return a > kLargest - b ? kLargest : a + b;
}

// tokens / last_bytes * bytes, rounded up.
std::int64_t scaled(std::int64_t tokens, std::size_t last_bytes, std::size_t bytes) noexcept {
    const auto divisor = static_cast<unsigned __int128>(last_bytes);
    const auto product = static_cast<unsigned __int128>(tokens) * bytes;
    const auto quotient = product / divisor + (product % divisor != 0 ? 1 : 0);
    return quotient > static_cast<unsigned __int128>(kLargest)
               ? kLargest
               : static_cast<std::int64_t>(quotient);
}

}  // namespace

const char* name(BudgetScope scope) noexcept {
    switch (scope) {
        case BudgetScope::Agent:
            return "agent";
        case BudgetScope::Mission:
            return "mission";
        case BudgetScope::User:
            return "user";
        case BudgetScope::Total:
            break;
    }
    return "total";
}

BudgetVerdict judge(const BudgetLimit& limit) noexcept {
    const std::int64_t used = std::max<std::int64_t>(limit.used, 0);
    const std::int64_t left = limit.cap - std::min(used, std::max<std::int64_t>(limit.cap, 0));
    if (left <= 0) {
        return BudgetVerdict::UsedUp;
    }
    const bool is_alone = limit.reserved <= 0;
    const std::int64_t wanted = std::max<std::int64_t>(limit.wanted, 1);
    return is_alone || (limit.reserved < left && wanted <= left - limit.reserved)
               ? BudgetVerdict::Fits
               : BudgetVerdict::Busy;
}

BudgetJudgement judge(std::span<const BudgetLimit> limits) noexcept {
    BudgetJudgement worst;
    for (const BudgetLimit& limit : limits) {
        const BudgetVerdict verdict = judge(limit);
        if (verdict > worst.verdict) {
            worst = {verdict, limit.scope};
        }
    }
    return worst;
}

std::int64_t estimated_tokens(std::size_t request_bytes, const MeasuredPrompt& last,
                              std::int64_t max_tokens) noexcept {
    const std::int64_t prompt = last.tokens > 0 && last.bytes > 0
                                    ? scaled(last.tokens, last.bytes, request_bytes)
                                    : scaled(1, kBytesOfToken, request_bytes);
    return sum(prompt, max_tokens > 0 ? max_tokens : kUnlimitedReply);
}

}  // namespace mana_ai::core
