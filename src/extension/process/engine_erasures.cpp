// Erasures of users (docs/erasure.md) in the process that plans.
#include <algorithm>
#include <string>
#include <vector>

#include "mana_ai/extension/lease/ledger.hpp"
#include "mana_ai/extension/process/engine.hpp"
#include "mana_ai/extension/run/budgets.hpp"
#include "mana_ai/pg/failpoint.hpp"
#include "mana_ai/pg/spi.hpp"
#include "mana_ai/pg/time.hpp"
#include "mana_ai/pg/transaction.hpp"

namespace mana_ai {

namespace {

constexpr size_t kSettleBatch = 10;  // other erasures wait while these are settled
constexpr core::Instant kSettlePause = core::kMicrosPerSecond / 2;
constexpr core::Instant kSettleTime = 200'000;
constexpr core::Instant kCompareTime = 100'000;  // of a pass

}  // namespace

// For digests that were added in another way, and snapshots that a fold has made before it saw
// them.
// All users are compared, some in each transaction; the next pass continues what takes longer.
void Engine::begin_missed_erasures(bool full_pass) {
    static pg::Statement begin(
        "SELECT compared, last_user FROM mana_ai.begin_missed_erasures($1, $2)");
    compares_users_ |= full_pass;
    const core::Instant started = pg::monotonic_now();
    // A manual tick has no next pass.
    while (compares_users_ && (counts_started_ || pg::monotonic_now() - started < kCompareTime)) {
        pg::Transaction transaction("mana_ai: comparing users with digests");
        const auto rows = begin
                              .execute({pg::text_or_null(compared_digests_),
                                        pg::text_or_null(last_compared_user_)})
                              .rows;
        transaction.commit();
        compared_digests_ = rows.front().optional_text(0);
        last_compared_user_ = rows.front().optional_text(1);
        compares_users_ = last_compared_user_.has_value();
    }
}

// Forgets what this process knows about erased users.
void Engine::forget_erased_users() {
    const auto is_erased = [this](const std::string& user) { return stops_.erased.contains(user); };
    for (const std::string& user_id : stops_.erased) {
        turns_.forget(user_id);
        table_patience_.forget(user_id);
        forget_lengths(user_id);
    }
    std::erase_if(agents_with_room_, [&](const auto& key) { return is_erased(key.first); });
    std::erase_if(started_by_agent_,
                  [&](const auto& entry) { return is_erased(entry.first.first); });
    std::erase_if(last_skipped_, [&](const auto& skipped) { return is_erased(skipped.user_id); });
    for (size_t i = counts_.errors.size(); i-- > 0;) {
        if (!is_erased(counts_.error_users[i]))
            continue;
        counts_.errors.erase(counts_.errors.begin() + static_cast<ptrdiff_t>(i));
        counts_.error_users.erase(counts_.error_users.begin() + static_cast<ptrdiff_t>(i));
    }
    // Sums of all users include theirs.
    if (!std::includes(settled_.begin(), settled_.end(), stops_.erased.begin(),
                       stops_.erased.end()))
        forget_sums();
}

// Removes erased users from this process, and then from the tables. An erasure that waits for other
// transactions is tried again after a while.
void Engine::settle_erasures() {
    const core::Instant now = pg::monotonic_now();
    if (stops_.erased == settled_ && now - settled_at_ < kSettlePause)
        return;
    forget_erased_users();
    settled_ = stops_.erased;
    settled_at_ = now;
    std::vector<std::string> users(settled_.upper_bound(settled_last_), settled_.end());
    users.insert(users.end(), settled_.begin(), settled_.upper_bound(settled_last_));
    // Some of their replies are not recorded yet.
    if (stopped_ > 0)
        std::erase_if(users, [this](const std::string& user) {
            return std::any_of(runs_.begin(), runs_.end(), [&](const auto& run) {
                return run.second->claimed.user_id == user;
            });
        });
    for (size_t i = 0; i < users.size() && pg::monotonic_now() - now <= kSettleTime;
         i += kSettleBatch) {
        const size_t end = std::min(i + kSettleBatch, users.size());
        const std::vector<std::string> batch(users.begin() + static_cast<ptrdiff_t>(i),
                                             users.begin() + static_cast<ptrdiff_t>(end));
        settled_last_ = batch.back();
        pg::Transaction transaction("mana_ai: settling erasures");
        mana_ai::settle_erasures(batch, number_);
        MANA_AI_FAILPOINT("erasure.before_commit");
        transaction.commit();
        MANA_AI_FAILPOINT("erasure.after_commit");
    }
}

}  // namespace mana_ai
