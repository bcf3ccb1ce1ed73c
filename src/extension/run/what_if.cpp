#include "mana_ai/extension/run/what_if.hpp"

#include <algorithm>
#include <utility>

#include "mana_ai/core/planner/budget.hpp"
#include "mana_ai/core/planner/reminders.hpp"
#include "mana_ai/extension/lease/durable_step.hpp"
#include "mana_ai/extension/lease/ledger.hpp"
#include "mana_ai/extension/lease/run_record.hpp"
#include "mana_ai/extension/run/budgets.hpp"
#include "mana_ai/extension/run/cost_budgets.hpp"
#include "mana_ai/extension/run/model_call.hpp"
#include "mana_ai/pg/log.hpp"
#include "mana_ai/pg/session_lock.hpp"
#include "mana_ai/pg/settings.hpp"
#include "mana_ai/pg/spi.hpp"
#include "mana_ai/pg/time.hpp"

namespace mana_ai {

namespace {

// As long as a run that has paid for replies.
constexpr core::Instant kPatienceForRoom = core::kMicrosPerMinute;
constexpr core::Instant kRoomPause = core::kMicrosPerSecond / 4;

struct Spending {
    core::CallNeed need;
    core::MeasuredPrompt last;
    core::BudgetJudgement judgement;
    const char* evaluation_ended = nullptr;
    bool is_known = true;  // false: the row is gone, with all that is held of the user
};

bool is_evaluated(const WhatIfQuestion& question) {
    return !question.evaluated.evaluation_id.empty();
}

// Nothing is written if the user was erased since the caller has read the run; then there is no
// room.
void announce(const WhatIfQuestion& question) {
    static pg::Statement insert(R"sql(
INSERT INTO mana_ai.what_if_running (what_if_id, user_id, mission_id, run_id, model, service_tier, engine)
SELECT $1::uuid, $2, $3, $4::uuid, $5, $6, $7 FROM mana_ai.runs r
 WHERE r.run_id = $4::uuid AND r.user_id = $2 FOR KEY SHARE)sql");
    insert.execute({std::string_view(question.id), std::string_view(question.claimed.user_id),
                    std::string_view(question.claimed.mission_id),
                    std::string_view(question.claimed.run_id), std::string_view(question.model),
                    std::string_view(question.service_tier), int64_t{question.engine}});
    if (is_evaluated(question))
        begin_evaluation_run(question.evaluated);
}

bool write_reservation(const WhatIfQuestion& question, int64_t tokens) {
    static pg::Statement reserve(
        "UPDATE mana_ai.what_if_running SET reserved_tokens = $2 WHERE what_if_id = $1::uuid");
    return reserve.execute({std::string_view(question.id), tokens}).processed > 0;
}

// Of all users together. An operator's question must not use up what is a user's.
core::BudgetJudgement look_at_total(const WhatIfQuestion& question, const core::CallNeed& need) {
    std::vector<core::BudgetLimit> limits;
    if (const auto cap = pg::settings::total_tokens_per_day()) {
        static pg::Statement select_reserved(R"sql(
SELECT (SELECT coalesce(sum(reserved_tokens), 0) FROM mana_ai.runs WHERE outcome = 'running')::bigint
       + (SELECT coalesce(sum(reserved_tokens), 0) FROM mana_ai.what_if_running
           WHERE what_if_id <> $1::uuid)::bigint)sql");
        const auto found = select_reserved.execute({std::string_view(question.id)});
        limits.push_back({core::BudgetScope::Total, *cap, used_tokens(everybody(), true),
                          found.rows.front().number(0), need});
    }
    add_total_cost_limit(question.id, need, limits);
    return core::judge(limits);
}

void reserve(const WhatIfQuestion& question, Spending& spending) {
    lock_budgets();
    spending.judgement = look_at_total(question, spending.need);
    spending.evaluation_ended = is_evaluated(question)
                                    ? evaluation_without_room(question.evaluated, question.model,
                                                              question.service_tier, spending.need)
                                    : nullptr;
    if (spending.evaluation_ended != nullptr)
        spending.judgement.verdict = core::BudgetVerdict::Short;
    spending.is_known =
        write_reservation(question, tokens_to_reserve(spending.need, spending.judgement));
}

net::Task<void> reserve_room(RunServices& services, const WhatIfQuestion& question,
                             Spending& spending) {
    const core::Instant end = pg::monotonic_now() + kPatienceForRoom;
    for (;;) {
        DatabaseJobs::Work look = [&] { reserve(question, spending); };
        co_await write_until_done(services, question.claimed, std::move(look));
        if (!spending.is_known || spending.judgement.verdict != core::BudgetVerdict::Busy ||
            pg::monotonic_now() >= end)
            co_return;
        co_await services.loop.sleep_for(kRoomPause);
    }
}

// The charge of a reply whose user was erased meanwhile must not bring the user's ids back.
Charge charge_somebody(const WhatIfQuestion& question, const PaidReply& reply) {
    lock_budgets();
    if (write_reservation(question, 0))
        return add_to_ledger(question.claimed, reply);
    return add_to_ledger({}, reply);
}

net::Task<void> charge(RunServices& services, const WhatIfQuestion& question,
                       const core::PlannerLoop& planner, const core::ModelReply& reply,
                       WhatIfAnswer& answer) {
    answer.model = reply.model;
    answer.usage += reply.usage;
    PaidReply paid{reply.usage, question.model, reply.model, reply.service_tier};
    paid.purpose = "what_if";
    Charge charged;
    // With the last reply, so that nothing is paid for twice.
    const bool is_result = is_evaluated(question) && planner.finished();
    DatabaseJobs::Work record = [&] {
        charged = charge_somebody(question, paid);
        if (is_evaluated(question))
            charge_evaluation(question.evaluated, paid.usage, charged);
        if (is_result)
            finish_evaluation_run(question.evaluated, answer.status, steps_of(planner));
    };
    std::string what = "purpose=what_if model=" + pg::printable(reply.model) +
                       " prompt_tokens=" + std::to_string(reply.usage.prompt) +
                       " cached_tokens=" + std::to_string(reply.usage.cached) +
                       " completion_tokens=" + std::to_string(reply.usage.completion) +
                       " tokens=" + std::to_string(reply.usage.total);
    co_await record_paid(services, question.claimed, std::move(record), std::move(what));
    if (charged.cost && !answer.currency.empty() && answer.currency != charged.currency)
        answer.is_priced_in_one_currency = false;
    if (charged.cost)
        answer.currency = charged.currency;
    answer.costs.push_back(std::move(charged.cost));
    answer.is_recorded = is_result;
}

std::vector<core::Reminder> due_reminders(const WhatIfQuestion& question,
                                          const core::PlannerLoop& planner) {
    core::LoopState state = planner.state();
    state.agent_name = question.agent_name;
    state.cap = question.agent_cap;
    state.tokens_before_run = question.agent_tokens;
    return core::reminders(state);
}

void end_with(WhatIfAnswer& answer, const char* status, std::string reason) {
    answer.status = status;
    answer.reason = std::move(reason);
}

void end_without_room(WhatIfAnswer& answer, const Spending& spending) {
    if (!spending.is_known)
        end_with(answer, "stopped", "the user was erased");
    else if (spending.evaluation_ended != nullptr)
        end_with(answer, "budget", "the budget of the evaluation has no room for the call");
    else if (spending.judgement.verdict == core::BudgetVerdict::Busy)
        end_with(answer, "budget", "calls in progress have reserved the rest of the total budget");
    else
        end_with(answer, "budget", "the total budget has no room for the call");
}

net::Task<void> converse(RunServices& services, const WhatIfQuestion& question,
                         core::PlannerLoop& planner, WhatIfAnswer& answer) {
    ServiceTier tier{question.service_tier};
    Spending spending;
    while (!planner.finished()) {
        spending.need = core::estimated_tokens(planner.request_size(), spending.last,
                                               pg::settings::llm_max_tokens());
        co_await reserve_room(services, question, spending);
        if (!spending.is_known || spending.judgement.verdict != core::BudgetVerdict::Fits) {
            end_without_room(answer, spending);
            if (spending.evaluation_ended != nullptr)
                answer.evaluation_ended = spending.evaluation_ended;
            co_return;
        }
        const std::vector<core::Reminder> reminders = due_reminders(question, planner);
        const int64_t longest_reply = core::max_tokens_of(
            spending.need, spending.judgement.reply_share, pg::settings::llm_max_tokens());
        const BodyOf body_of = [&](const std::string& model, const std::string& at_tier) {
            return planner.request_body(model, reminders, longest_reply,
                                        {at_tier, question.prompt_cache_key});
        };
        spending.last.bytes = planner.request_size();
        const CallWish wish{question.model, tier, planner.rounds() > 0};
        const core::ModelResult result =
            co_await call_model(services, question.claimed, wish, body_of);
        if (const auto* error = std::get_if<core::ProviderError>(&result)) {
            end_with(answer, core::name(error->kind), error->message);
            co_return;
        }
        const auto& reply = std::get<core::ModelReply>(result);
        spending.last.tokens = reply.usage.prompt;
        const auto broken = core::failure_in(reply);
        if (broken)
            planner.on_broken_reply(reply);
        else
            planner.on_reply(reply, pg::settings::policy_mode());
        answer.rounds = planner.rounds();
        co_await charge(services, question, planner, reply, answer);
        if (broken == core::ErrorKind::Truncated &&
            longest_reply < pg::settings::llm_max_tokens()) {
            end_with(answer, "budget", "the reply was cut off where the total budget ends");
            co_return;
        }
        if (broken) {
            end_with(answer, core::name(*broken),
                     *broken == core::ErrorKind::Blocked
                         ? "a filter of the provider has held back the reply"
                     : *broken == core::ErrorKind::Truncated
                         ? "the reply was cut off at its greatest length"
                         : "the provider has failed in the middle of the reply");
            co_return;
        }
    }
}

bool is_of_all(const std::string& status) {
    for (const char* known : {"budget", "auth", "rate_limit", "no_healthy_provider", "unreachable"})
        if (status == known)
            return true;
    return false;
}

void forget(const std::string& id) {
    static pg::Statement remove("DELETE FROM mana_ai.what_if_running WHERE what_if_id = $1::uuid");
    remove.execute({std::string_view(id)});
}

}  // namespace

bool is_stopped(const Stops& stops, const WhatIfQuestion& question) {
    return stops.all || stops.concern_user(question.claimed.user_id) ||
           (!question.agent_id.empty() && stops.agents.contains(question.agent_id)) ||
           stops.models.contains(question.model);
}

bool is_on_record(const WhatIfQuestion& question) {
    static pg::Statement select_row(
        "SELECT 1 FROM mana_ai.what_if_running WHERE what_if_id = $1::uuid");
    return !select_row.execute({std::string_view(question.id)}).rows.empty();
}

net::Task<void> ask_what_if(RunServices& services, const WhatIfQuestion& question,
                            core::PlannerLoop& planner, WhatIfAnswer& answer) {
    DatabaseJobs::Work begin = [&] { announce(question); };
    co_await write_until_done(services, question.claimed, std::move(begin));
    answer.is_announced = true;
    std::exception_ptr failure;
    try {
        co_await converse(services, question, planner, answer);
    } catch (...) {
        failure = std::current_exception();
    }
    // A failure of the service, or of all together, is none of the run's: it is asked about again.
    const bool is_result = is_evaluated(question) && !failure && !answer.is_recorded &&
                           !is_of_all(answer.status) && answer.evaluation_ended.empty();
    answer.is_announced = false;
    DatabaseJobs::Work end = [&] {
        forget(question.id);
        if (is_result)
            finish_evaluation_run(question.evaluated, answer.status, {});
    };
    co_await write_until_done(services, question.claimed, std::move(end));
    if (failure)
        std::rethrow_exception(failure);
    if (is_evaluated(question) && is_of_all(answer.status) && answer.evaluation_ended.empty())
        answer.evaluation_ended = answer.status == "budget" ? "budget" : "service";
}

std::vector<core::ComparedStep> steps_of(const core::PlannerLoop& planner) {
    std::vector<core::ComparedStep> steps;
    for (const core::PlanStep& step : planner.steps())
        steps.push_back({step.tool_name, step.params});
    return steps;
}

void forget_what_ifs(uint32_t engine) {
    static pg::Statement remove("DELETE FROM mana_ai.what_if_running WHERE engine = $1");
    remove.execute({int64_t{engine}});
}

void forget_dead_what_ifs() {
    static pg::Statement select_engines("SELECT DISTINCT engine FROM mana_ai.what_if_running");
    for (const pg::Row& row : select_engines.execute({}).rows)
        if (!pg::is_session_lock_held(pg::LockKey::Engine, static_cast<uint32_t>(row.number(0))))
            forget_what_ifs(static_cast<uint32_t>(row.number(0)));
}

}  // namespace mana_ai
