#include "mana_ai/extension/lease/ledger.hpp"

#include <functional>
#include <unordered_map>

#include "mana_ai/pg/guard.hpp"
#include "mana_ai/pg/record_lock.hpp"
#include "mana_ai/pg/spi.hpp"
#include "mana_ai/pg/time.hpp"

namespace mana_ai {

namespace {

constexpr core::Instant kDay = 24 * core::kMicrosPerHour;
constexpr core::Instant kGoodFor = core::kMicrosPerMinute;
constexpr size_t kMaxSums = 10'000;

uint64_t name_of_lock() {
    static const uint64_t hash = std::hash<std::string>()("mana_ai.budgets");
    return hash;
}

std::unordered_map<std::string, KnownSum>& sums() {
    static std::unordered_map<std::string, KnownSum> of_accounts;
    return of_accounts;
}

std::string key_of(const Account& account) {
    if (account.is_everybodys)
        return {};
    // With lengths, since users choose their ids.
    return std::to_string(account.user_id.size()) + ' ' + std::to_string(account.agent_id.size()) +
           ' ' + account.user_id + account.agent_id + account.mission_id;
}

// Of the rows after $1: up to the transaction's begin, all, and that begin.
std::string sums_where(const std::string& condition) {
    return "SELECT coalesce(sum(tokens_used) FILTER (WHERE ts <= now()), 0)::bigint, "
           "coalesce(sum(tokens_used), 0)::bigint, now() "
           "FROM mana_ai.token_usage WHERE ts > $1" +
           condition;
}

pg::StatementResult read_sums(const Account& account, core::Instant since) {
    const pg::Timestamp begin{since};
    const std::string_view user = account.user_id;
    if (account.is_everybodys) {
        static pg::Statement of_all(sums_where(""));
        return of_all.execute({begin});
    }
    if (!account.mission_id.empty()) {
        static pg::Statement of_mission(
            sums_where(" AND user_id = $2 AND mission_id = $3 AND purpose <> 'what_if'"));
        return of_mission.execute({begin, user, std::string_view(account.mission_id)});
    }
    if (!account.agent_id.empty()) {
        static pg::Statement of_agent(
            sums_where(" AND user_id = $2 AND agent_id = $3 AND purpose <> 'what_if'"));
        return of_agent.execute({begin, user, std::string_view(account.agent_id)});
    }
    static pg::Statement of_user(sums_where(" AND user_id = $2 AND purpose <> 'what_if'"));
    return of_user.execute({begin, user});
}

// What is added up already is not read again.
KnownSum kept_sum_of_all(core::Instant since, core::Instant now) {
    static pg::Statement select_kept(R"sql(
SELECT min(u.read_from), sum(u.tokens)::bigint FROM mana_ai.usage_of_all($1, true) u)sql");
    const auto rows = select_kept.execute({pg::Timestamp{since}}).rows;
    const pg::Row& row = rows.front();
    if (row.is_null(0))
        return {since, 0, now};
    return {row.number(0) - 1, row.number(1), now};
}

}  // namespace

Account everybody() {
    return {{}, {}, {}, true};
}

void lock_budgets() {
    const uint64_t lock = name_of_lock();
    pg::guarded([lock] { pg::lock_name_and_wait(lock); });
}

bool try_lock_budgets() {
    const uint64_t lock = name_of_lock();
    return pg::guarded([lock] { return pg::try_lock_name(lock); });
}

KnownSum known_sum(const Account& account) {
    const core::Instant now = pg::now();
    const auto found = sums().find(key_of(account));
    if (found != sums().end()) {
        const KnownSum& known = found->second;
        // Not after the clock was set back either.
        if (now >= known.until && now >= known.counted_anew_at &&
            now - known.counted_anew_at < kGoodFor)
            return known;
    }
    if (account.is_everybodys)
        return kept_sum_of_all(now - kDay, now);
    return {now - kDay, 0, now};
}

void keep_sum(const Account& account, KnownSum known, int64_t settled,
              core::Instant transaction_begun) {
    if (transaction_begun <= known.until)
        return;
    known.tokens += settled;
    known.until = transaction_begun;
    if (sums().size() >= kMaxSums)
        sums().clear();
    sums()[key_of(account)] = known;
}

void forget_sums() {
    sums().clear();
}

int64_t used_tokens(const Account& account, bool is_alone) {
    const KnownSum known = known_sum(account);
    const auto found = read_sums(account, known.until);
    const pg::Row& row = found.rows.front();
    if (is_alone)
        keep_sum(account, known, row.number(0), row.number(2));
    return known.tokens + row.number(1);
}

}  // namespace mana_ai
