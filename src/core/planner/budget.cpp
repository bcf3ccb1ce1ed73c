#include "mana_ai/core/planner/budget.hpp"

#include <algorithm>
#include <limits>

namespace mana_ai::core {

namespace {

constexpr std::int64_t kLargest = std::numeric_limits<std::int64_t>::max();

// A token of English or JSON has about four bytes, of German three, of other scripts fewer.
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

std::int64_t left_of(const BudgetLimit& limit) noexcept {
    const std::int64_t used = std::max<std::int64_t>(limit.used, 0);
    return limit.cap - std::min(used, std::max<std::int64_t>(limit.cap, 0));
}

// The share of the longest reply for which the rest has room in addition to the prompt.
double share_of(const BudgetLimit& limit) noexcept {
    const std::int64_t left =
        left_of(limit) - std::clamp<std::int64_t>(limit.wanted.prompt, 0, left_of(limit));
    return limit.wanted.reply <= left || limit.wanted.reply <= 0
               ? 1.0
               : static_cast<double>(left) / static_cast<double>(limit.wanted.reply);
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

std::int64_t CallNeed::total() const noexcept {
    return sum(prompt, reply);
}

BudgetVerdict judge(const BudgetLimit& limit) noexcept {
    const std::int64_t left = left_of(limit);
    const std::int64_t least = sum(limit.wanted.prompt, limit.wanted.least_reply);
    if (left <= 0) {
        return BudgetVerdict::UsedUp;
    }
    if (least > left) {
        return BudgetVerdict::Short;
    }
    const bool is_alone = limit.reserved <= 0;
    const std::int64_t wanted = std::max<std::int64_t>(limit.wanted.total(), 1);
    return is_alone || (limit.reserved < left && wanted <= left - limit.reserved)
               ? BudgetVerdict::Fits
               : BudgetVerdict::Busy;
}

BudgetJudgement judge(std::span<const BudgetLimit> limits) noexcept {
    BudgetJudgement worst;
    for (const BudgetLimit& limit : limits) {
        const BudgetVerdict verdict = judge(limit);
        if (verdict > worst.verdict) {
            worst.verdict = verdict;
            worst.scope = limit.scope;
        }
        if (const double share = share_of(limit); share < worst.reply_share) {
            worst.reply_share = share;
            worst.scope = worst.verdict == BudgetVerdict::Fits ? limit.scope : worst.scope;
        }
    }
    return worst;
}

CallNeed estimated_tokens(std::size_t request_bytes, const MeasuredPrompt& last,
                          std::int64_t max_tokens) noexcept {
    CallNeed need;
    need.prompt = last.tokens > 0 && last.bytes > 0 ? scaled(last.tokens, last.bytes, request_bytes)
                                                    : scaled(1, kBytesOfToken, request_bytes);
    need.reply = max_tokens > 0 ? max_tokens : kUnlimitedReply;
    need.least_reply = max_tokens > 0 ? std::min(max_tokens, kShortestReply) : 0;
    return need;
}

std::int64_t max_tokens_of(const CallNeed& need, double reply_share,
                           std::int64_t max_tokens) noexcept {
    if (max_tokens <= 0 || reply_share >= 1) {
        return max_tokens;
    }
    // The share is meant to give whole tokens.
    constexpr double kRounding = 1e-6;
    const auto tokens = static_cast<std::int64_t>(
        std::clamp(static_cast<double>(need.reply) * reply_share + kRounding, 0.0, 1e15));
    return std::clamp<std::int64_t>(tokens, 1, max_tokens);
}

}  // namespace mana_ai::core
