#include "mana_ai/extension/run/budgets.hpp"

#include <algorithm>
#include <functional>
#include <utility>

#include "mana_ai/pg/guard.hpp"
#include "mana_ai/pg/record_lock.hpp"
#include "mana_ai/pg/settings.hpp"
#include "mana_ai/pg/spi.hpp"
#include "mana_ai/pg/time.hpp"

namespace mana_ai {

namespace {

constexpr core::Instant kPauseForRoom = 5 * core::kMicrosPerSecond;

int64_t last_first_call = 0;  // of this process, and some more

// Two processes that both look before either writes would both find room. One lock for all budgets:
// each process reserves for many users in one transaction, and must wait in no circle.
uint64_t name_of_lock() {
    static const uint64_t hash = std::hash<std::string>()("mana_ai.budgets");
    return hash;
}

int64_t amount(const pg::Row& row, size_t column) {
    return row.is_null(column) ? 0 : row.number(column);
}

// The whole ledger of a day is long, so what is older than two minutes is added up once a minute.
// That some of it expires meanwhile errs on the safe side.
struct TotalBefore {
    core::Instant until = 0;
    int64_t tokens = 0;
};

TotalBefore total_before() {
    constexpr core::Instant kSettled = 2 * core::kMicrosPerMinute;
    static TotalBefore known;
    static core::Instant read_at = 0;
    const core::Instant now = pg::now();
    if (read_at == 0 || now < read_at || now - read_at > core::kMicrosPerMinute) {
        static pg::Statement add_up(R"sql(
SELECT coalesce(sum(tokens_used), 0)::bigint FROM mana_ai.token_usage
 WHERE ts > now() - interval '24 hours' AND ts <= $1)sql");
        const core::Instant until = now - kSettled;
        known = {until, add_up.execute({pg::Timestamp{until}}).rows.front().number(0)};
        read_at = now;
    }
    return known;
}

}  // namespace

ClaimBudgets::ClaimBudgets(std::vector<std::string> users) {
    std::sort(users.begin(), users.end());
    users.erase(std::unique(users.begin(), users.end()), users.end());
    if (users.empty())
        return;
    // It has locked rows that others may wait for, who have the lock.
    const uint64_t lock = name_of_lock();
    is_alone_ = pg::guarded([lock] { return pg::try_lock_name(lock); });
    const auto usual = pg::settings::user_tokens_per_day();
    static pg::Statement select_users(R"sql(
SELECT u.user_id, b.user_id IS NOT NULL, b.tokens_per_day,
       CASE WHEN CASE WHEN b.user_id IS NULL THEN $2 ELSE b.tokens_per_day IS NOT NULL END THEN
         (SELECT sum(t.tokens_used)::bigint FROM mana_ai.token_usage t
           WHERE t.user_id = u.user_id AND t.ts > now() - interval '24 hours') END,
       (SELECT sum(r.reserved_tokens)::bigint FROM mana_ai.runs r
         WHERE r.user_id = u.user_id AND r.outcome = 'running')
  FROM unnest($1) AS u(user_id)
  LEFT JOIN mana_ai.user_budgets b ON b.user_id = u.user_id)sql");
    for (pg::Row& row : select_users.execute({&users, usual.has_value()}).rows) {
        Standing standing{usual, amount(row, 3), amount(row, 4)};
        if (row.number(1) != 0)
            standing.cap = row.is_null(2) ? std::nullopt : std::optional(row.number(2));
        users_.emplace(row.take_text(0), standing);
    }
    total_.cap = pg::settings::total_tokens_per_day();
    if (!total_.cap)
        return;
    const TotalBefore before = total_before();
    static pg::Statement select_total(R"sql(
SELECT (SELECT sum(tokens_used)::bigint FROM mana_ai.token_usage WHERE ts > $1),
       (SELECT sum(reserved_tokens)::bigint FROM mana_ai.runs WHERE outcome = 'running'))sql");
    const auto rows = select_total.execute({pg::Timestamp{before.until}}).rows;
    total_.used = before.tokens + amount(rows.front(), 0);
    total_.reserved = amount(rows.front(), 1);
}

void ClaimBudgets::add_limits(const std::string& user_id, int64_t wanted,
                              std::vector<core::BudgetLimit>& limits) const {
    const auto add = [wanted, &limits](core::BudgetScope scope, const Standing& standing) {
        if (standing.cap)
            limits.push_back({scope, *standing.cap, standing.used, standing.reserved, wanted});
    };
    add(core::BudgetScope::User, users_.at(user_id));
    add(core::BudgetScope::Total, total_);
}

void ClaimBudgets::reserve(const std::string& user_id, int64_t tokens) {
    users_.at(user_id).reserved += tokens;
    total_.reserved += tokens;
}

int64_t tokens_of_first_call() {
    return std::max(core::estimated_tokens(0, {}, pg::settings::llm_max_tokens()), last_first_call);
}

void note_first_call(int64_t tokens) {
    last_first_call = tokens + tokens / 20;
}

RunBudget look_at_budgets(const ClaimedMission& claimed, int64_t tokens) {
    std::optional<int64_t> of_agent;
    if (claimed.agent)
        of_agent = claimed.agent->max_tokens_per_day;
    const auto of_all = pg::settings::total_tokens_per_day();
    const uint64_t lock = name_of_lock();
    pg::guarded([lock] { pg::lock_name_and_wait(lock); });
    const TotalBefore before = of_all ? total_before() : TotalBefore{};
    // One statement, so that a call that ends meanwhile is either still reserved or already used.
    static pg::Statement select_standing(R"sql(
SELECT b.user_id IS NOT NULL, b.tokens_per_day, u.of_user, u.of_agent, u.of_mission,
       r.of_user, r.of_agent,
       CASE WHEN $5 THEN (SELECT sum(t.tokens_used)::bigint FROM mana_ai.token_usage t
                           WHERE t.ts > $6) END,
       CASE WHEN $5 THEN (SELECT sum(x.reserved_tokens)::bigint FROM mana_ai.runs x
                           WHERE x.outcome = 'running' AND x.run_id <> $4::uuid) END
  FROM (SELECT sum(t.tokens_used)::bigint AS of_user,
               sum(t.tokens_used) FILTER (WHERE t.agent_id = $2)::bigint AS of_agent,
               sum(t.tokens_used) FILTER (WHERE t.mission_id = $3)::bigint AS of_mission
          FROM mana_ai.token_usage t
         WHERE t.user_id = $1 AND t.ts > now() - interval '24 hours') u
 CROSS JOIN (SELECT sum(x.reserved_tokens)::bigint AS of_user,
                    sum(x.reserved_tokens) FILTER (WHERE x.agent_id = $2)::bigint AS of_agent
               FROM mana_ai.runs x
              WHERE x.user_id = $1 AND x.outcome = 'running' AND x.run_id <> $4::uuid) r
  LEFT JOIN mana_ai.user_budgets b ON b.user_id = $1)sql");
    const auto rows =
        select_standing
            .execute({std::string_view(claimed.user_id),
                      std::string_view(claimed.agent ? claimed.agent->id : ""),
                      std::string_view(claimed.mission_id), std::string_view(claimed.run_id),
                      of_all.has_value(), pg::Timestamp{before.until}})
            .rows;
    const pg::Row& row = rows.front();
    std::optional<int64_t> of_user = pg::settings::user_tokens_per_day();
    if (row.number(0) != 0)
        of_user = row.is_null(1) ? std::nullopt : std::optional(row.number(1));
    std::vector<core::BudgetLimit> limits;
    const auto add = [&](core::BudgetScope scope, const std::optional<int64_t>& cap, int64_t used,
                         int64_t reserved) {
        if (cap)
            limits.push_back({scope, *cap, used, reserved, tokens});
    };
    add(core::BudgetScope::Agent, of_agent, amount(row, 3), amount(row, 6));
    // A mission has one run at a time.
    add(core::BudgetScope::Mission, claimed.mission.max_tokens_per_day, amount(row, 4), 0);
    add(core::BudgetScope::User, of_user, amount(row, 2), amount(row, 5));
    add(core::BudgetScope::Total, of_all, before.tokens + amount(row, 7), amount(row, 8));
    return {core::judge(limits), amount(row, 3)};
}

RunBudget reserve_tokens(const ClaimedMission& claimed, int64_t tokens) {
    RunBudget budget = look_at_budgets(claimed, tokens);
    static pg::Statement reserve(R"sql(
UPDATE mana_ai.runs SET reserved_tokens = $3 WHERE user_id = $1 AND run_id = $2::uuid)sql");
    reserve.execute({std::string_view(claimed.user_id), std::string_view(claimed.run_id),
                     budget.judgement.verdict == core::BudgetVerdict::Fits ? tokens : int64_t{0}});
    return budget;
}

core::Instant look_at_budget_again(const core::BudgetJudgement& judgement, core::Instant now,
                                   core::Instant otherwise) {
    return judgement.verdict == core::BudgetVerdict::Busy ? std::min(otherwise, now + kPauseForRoom)
                                                          : otherwise;
}

}  // namespace mana_ai
