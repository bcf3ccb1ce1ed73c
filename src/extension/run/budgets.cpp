#include "mana_ai/extension/run/budgets.hpp"

#include <algorithm>
#include <utility>

#include "mana_ai/extension/lease/ledger.hpp"
#include "mana_ai/extension/lease/run_record.hpp"
#include "mana_ai/extension/run/cost_budgets.hpp"
#include "mana_ai/pg/settings.hpp"
#include "mana_ai/pg/spi.hpp"
#include "mana_ai/pg/time.hpp"

extern "C" {
#include "catalog/pg_type_d.h"
}

namespace mana_ai {

namespace {

constexpr core::Instant kPauseForRoom = 5 * core::kMicrosPerSecond;
constexpr size_t kMaxLongPrompts = 10'000;
constexpr int64_t kLongestUsualPrompt = 20'000;

int64_t last_first_call = 0;  // of this process, and some more
// Of missions whose budget had no room for it, by user and mission.
std::map<std::pair<std::string, std::string>, int64_t> long_prompts;

void note_long_prompt(const std::pair<std::string, std::string>& mission,
                      const core::CallNeed& need) {
    if (long_prompts.size() >= kMaxLongPrompts)
        long_prompts.clear();
    // The prompt may be shorter at the next check, so that one is made from time to time.
    long_prompts[mission] = need.prompt * 9 / 10;
}

int64_t amount(const pg::Row& row, size_t column) {
    return row.is_null(column) ? 0 : row.number(column);
}

}  // namespace

ClaimBudgets::ClaimBudgets(std::vector<std::string> users) {
    std::sort(users.begin(), users.end());
    users.erase(std::unique(users.begin(), users.end()), users.end());
    if (users.empty())
        return;
    // This transaction has locked rows that the holders of the lock may wait for.
    is_alone_ = try_lock_budgets();
    const auto usual = pg::settings::user_tokens_per_day();
    std::vector<std::string> since;
    std::map<std::string, KnownSum> known;
    for (const std::string& user : users) {
        const KnownSum& sum = known[user] = known_sum({user, {}, {}});
        since.push_back(std::to_string(sum.until));
    }
    static pg::Statement select_users(R"sql(
SELECT u.user_id, b.tokens_per_day,
       (SELECT sum(r.reserved_tokens)::bigint FROM mana_ai.runs r
         WHERE r.user_id = u.user_id AND r.outcome = 'running'),
       t.settled, t.used, now()
  FROM unnest($1, $2) AS u(user_id, since)
  LEFT JOIN mana_ai.user_budgets b ON b.user_id = u.user_id
 CROSS JOIN LATERAL (
   SELECT sum(t.tokens_used) FILTER (WHERE t.ts <= now())::bigint AS settled,
          sum(t.tokens_used)::bigint AS used
     FROM mana_ai.token_usage t
    WHERE t.user_id = u.user_id AND t.purpose <> 'what_if'
      AND t.ts > timestamptz 'epoch' + u.since::bigint * interval '1 microsecond') t)sql");
    for (pg::Row& row : select_users.execute({&users, &since}).rows) {
        const KnownSum& sum = known.at(row.text(0));
        Standing standing{usual, sum.tokens + amount(row, 4), amount(row, 2)};
        if (is_alone_)
            keep_sum({row.text(0), {}, {}}, sum, amount(row, 3), row.number(5));
        if (!row.is_null(1))
            standing.cap = row.number(1);
        users_.emplace(row.take_text(0), standing);
    }
    total_.cap = pg::settings::total_tokens_per_day();
    if (!total_.cap)
        return;
    // Reservations are read first: a call that ends at the same time counts twice rather than
    // never.
    static pg::Statement select_reserved(R"sql(
SELECT (SELECT coalesce(sum(reserved_tokens), 0) FROM mana_ai.runs WHERE outcome = 'running')::bigint
       + (SELECT coalesce(sum(reserved_tokens), 0) FROM mana_ai.what_if_running)::bigint)sql");
    total_.reserved = amount(select_reserved.execute({}).rows.front(), 0);
    total_.used = used_tokens(everybody(), is_alone_);
}

int64_t ClaimBudgets::used_by(const std::string& user_id, const std::string& agent_id,
                              const std::string& mission_id) {
    const auto [known, is_new] = used_.try_emplace({user_id, agent_id, mission_id}, 0);
    if (is_new)
        known->second = used_tokens({user_id, agent_id, mission_id}, is_alone_);
    return known->second;
}

void ClaimBudgets::add_limits(const std::string& user_id, const core::CallNeed& wanted,
                              std::vector<core::BudgetLimit>& limits) const {
    const auto add = [&wanted, &limits](core::BudgetScope scope, const Standing& standing) {
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

core::CallNeed need_of_first_call(const std::string& user_id, const std::string& mission_id,
                                  int64_t cut_reply_length) {
    core::CallNeed need = core::estimated_tokens(0, {}, pg::settings::llm_max_tokens());
    const auto known = long_prompts.find({user_id, mission_id});
    if (known != long_prompts.end())
        need.prompt = known->second;
    else
        need.reply = std::max(need.reply, last_first_call);
    return with_known_length(need, cut_reply_length);
}

core::CallNeed with_known_length(core::CallNeed need, int64_t cut_reply_length) {
    const int64_t longest = pg::settings::llm_max_tokens();
    if (longest > 0)
        need.least_reply = std::max(need.least_reply, std::min(2 * cut_reply_length, longest));
    return need;
}

void note_cut_off_reply(const ClaimedMission& claimed, const core::CallNeed& need) {
    note_long_prompt({claimed.user_id, claimed.mission_id}, need);
}

void store_cut_off_reply(const ClaimedMission& claimed, std::optional<int64_t> length) {
    // Also so as not to wait for the row.
    if (!hold_lease(claimed))
        return;
    static pg::Statement store(R"sql(
UPDATE mana_ai.mission_schedule
   SET cut_reply_length = $4, cut_reply_at = CASE WHEN $4 IS NOT NULL THEN clock_timestamp() END
 WHERE user_id = $1 AND mission_id = $2 AND run_id = $3::uuid)sql");
    store.execute({std::string_view(claimed.user_id), std::string_view(claimed.mission_id),
                   std::string_view(claimed.run_id),
                   length ? pg::Param(*length) : pg::Param(pg::Null{INT8OID})});
}

void forget_lengths(std::string_view user_id) {
    const auto is_theirs = [&](const auto& entry) { return entry.first.first == user_id; };
    std::erase_if(long_prompts, is_theirs);
}

void note_first_call(const ClaimedMission& claimed, const core::CallNeed& need, bool was_too_long) {
    // One user's long prompt must not affect the estimate for all others.
    last_first_call =
        std::min(need.total() + need.total() / 20, 4 * need.reply + kLongestUsualPrompt);
    const std::pair<std::string, std::string> mission(claimed.user_id, claimed.mission_id);
    if (!was_too_long) {
        long_prompts.erase(mission);
        return;
    }
    note_long_prompt(mission, need);
}

int64_t tokens_to_reserve(const core::CallNeed& need, const core::BudgetJudgement& judgement) {
    if (judgement.verdict != core::BudgetVerdict::Fits)
        return 0;
    core::CallNeed granted = need;
    granted.reply = core::max_tokens_of(need, judgement.reply_share, need.reply);
    return granted.total();
}

RunBudget look_at_budgets(const ClaimedMission& claimed, const core::CallNeed& need) {
    std::optional<int64_t> of_agent;
    if (claimed.agent)
        of_agent = claimed.agent->max_tokens_per_day;
    const auto of_all = pg::settings::total_tokens_per_day();
    lock_budgets();
    const KnownSum known = known_sum({claimed.user_id, {}, {}});
    static pg::Statement select_standing(R"sql(
SELECT b.tokens_per_day, r.of_user, r.of_agent, u.settled, u.used, now()
  FROM (SELECT sum(x.reserved_tokens)::bigint AS of_user,
               sum(x.reserved_tokens) FILTER (WHERE x.agent_id = $2)::bigint AS of_agent
          FROM mana_ai.runs x
         WHERE x.user_id = $1 AND x.outcome = 'running' AND x.run_id <> $3::uuid) r
 CROSS JOIN (SELECT sum(t.tokens_used) FILTER (WHERE t.ts <= now())::bigint AS settled,
                    sum(t.tokens_used)::bigint AS used
               FROM mana_ai.token_usage t
              WHERE t.user_id = $1 AND t.ts > $4 AND t.purpose <> 'what_if') u
  LEFT JOIN mana_ai.user_budgets b ON b.user_id = $1)sql");
    const auto rows = select_standing
                          .execute({std::string_view(claimed.user_id),
                                    std::string_view(claimed.agent ? claimed.agent->id : ""),
                                    std::string_view(claimed.run_id), pg::Timestamp{known.until}})
                          .rows;
    const pg::Row& row = rows.front();
    const int64_t used_by_user = known.tokens + amount(row, 4);
    keep_sum({claimed.user_id, {}, {}}, known, amount(row, 3), row.number(5));
    std::optional<int64_t> of_user = pg::settings::user_tokens_per_day();
    if (!row.is_null(0))
        of_user = row.number(0);
    std::vector<core::BudgetLimit> limits;
    const auto add = [&](core::BudgetScope scope, const std::optional<int64_t>& cap, int64_t used,
                         int64_t reserved) {
        if (cap)
            limits.push_back({scope, *cap, used, reserved, need});
    };
    int64_t used_by_agent = 0;
    if (of_agent) {
        used_by_agent = used_tokens({claimed.user_id, claimed.agent->id, {}}, true);
        add(core::BudgetScope::Agent, of_agent, used_by_agent, amount(row, 2));
    }
    // A mission has one run at a time.
    if (const auto of_mission = claimed.mission.max_tokens_per_day)
        add(core::BudgetScope::Mission, of_mission,
            used_tokens({claimed.user_id, {}, claimed.mission_id}, true), 0);
    add(core::BudgetScope::User, of_user, used_by_user, amount(row, 1));
    if (of_all) {
        static pg::Statement select_reserved(R"sql(
SELECT (SELECT coalesce(sum(reserved_tokens), 0) FROM mana_ai.runs
         WHERE outcome = 'running' AND run_id <> $1::uuid)::bigint
       + (SELECT coalesce(sum(reserved_tokens), 0) FROM mana_ai.what_if_running)::bigint)sql");
        const auto found = select_reserved.execute({std::string_view(claimed.run_id)});
        add(core::BudgetScope::Total, of_all, used_tokens(everybody(), true),
            amount(found.rows.front(), 0));
    }
    add_cost_limits(claimed.user_id, claimed.agent ? claimed.agent->id : std::string(),
                    claimed.mission_id, claimed.run_id, need, limits);
    return {core::judge(limits), used_by_agent};
}

RunBudget reserve_tokens(const ClaimedMission& claimed, const core::CallNeed& need) {
    RunBudget budget = look_at_budgets(claimed, need);
    static pg::Statement reserve(R"sql(
UPDATE mana_ai.runs SET reserved_tokens = $3 WHERE user_id = $1 AND run_id = $2::uuid)sql");
    reserve.execute({std::string_view(claimed.user_id), std::string_view(claimed.run_id),
                     tokens_to_reserve(need, budget.judgement)});
    return budget;
}

core::Instant look_at_budget_again(const core::BudgetJudgement& judgement, core::Instant now,
                                   core::Instant otherwise) {
    return judgement.verdict == core::BudgetVerdict::Busy ? std::min(otherwise, now + kPauseForRoom)
                                                          : otherwise;
}

}  // namespace mana_ai
