#include "mana_ai/extension/lease/run_record.hpp"

#include <algorithm>
#include <climits>

#include "mana_ai/extension/lease/ledger.hpp"
#include "mana_ai/extension/lease/run_metrics.hpp"
#include "mana_ai/pg/metrics.hpp"
#include "mana_ai/pg/postgres.hpp"
#include "mana_ai/pg/spi.hpp"

extern "C" {
#include "catalog/pg_type_d.h"
}

namespace mana_ai {

namespace {

std::optional<std::string> non_empty(const std::string& text) {
    if (text.empty())
        return std::nullopt;
    return text;
}

void forget_iterations(const ClaimedMission& claimed) {
    static pg::Statement forget(
        "DELETE FROM mana_ai.iterations_at_claim WHERE user_id = $1 AND run_id = $2::uuid");
    forget.execute({std::string_view(claimed.user_id), std::string_view(claimed.run_id)});
}

}  // namespace

const char* name(RunOutcome outcome) noexcept {
    switch (outcome) {
        case RunOutcome::Planned:
            return "planned";
        case RunOutcome::Discarded:
            return "discarded";
        case RunOutcome::Failed:
            return "failed";
        case RunOutcome::Skipped:
            return "skipped";
        case RunOutcome::Canceled:
            return "canceled";
    }
    return "canceled";
}

std::string problem_of(const std::string& decision) {
    return "CASE WHEN " + decision +
           " IN ('skipped-encrypted', 'skipped-unreviewed', 'skipped-agent-missing', "
           "'skipped-too-large', 'skipped-unreadable', 'skipped-clock-ahead') THEN " +
           decision + " WHEN s.attempts > 0 THEN 'failed' END";
}

Charge add_to_ledger(const ClaimedMission& claimed, const PaidReply& reply) {
    const std::optional<std::string> agent_id =
        claimed.agent ? non_empty(claimed.agent->id) : std::nullopt;
    const auto bounded = [](int64_t tokens) { return std::clamp<int64_t>(tokens, 0, INT_MAX); };
    const int64_t tokens = bounded(reply.usage.total);
    lock_budgets();
    // Millionths, rounded up. The function is only called if there are prices at all.
    static pg::Statement insert_usage(R"sql(
INSERT INTO mana_ai.token_usage (user_id, agent_id, mission_id, tokens_used, run_id, model,
                                 service_tier, prompt_tokens, cached_tokens, completion_tokens,
                                 reasoning_tokens, cost, currency, purpose)
SELECT $1, $2, $3, $4, nullif($5, '')::uuid, $6, $7, $8, $9, $10, $11, c.cost, c.currency, $12
  FROM (SELECT) reply
  LEFT JOIN LATERAL (SELECT x.*
                       FROM (SELECT WHERE EXISTS (SELECT FROM mana_ai.model_prices) OFFSET 0) priced
                      CROSS JOIN LATERAL mana_ai.cost_of($6, $7, clock_timestamp(), $8, $9, $4) x) c
    ON true
RETURNING CASE WHEN cost IS NOT NULL THEN least(ceil(cost * 1000000), 9e18) END::bigint, currency,
          cost::text)sql");
    const auto rows =
        insert_usage
            .execute({std::string_view(claimed.user_id), pg::text_or_null(agent_id),
                      std::string_view(claimed.mission_id), tokens,
                      std::string_view(claimed.run_id), std::string_view(reply.model),
                      std::string_view(reply.service_tier), bounded(reply.usage.prompt),
                      bounded(reply.usage.cached), bounded(reply.usage.completion),
                      bounded(reply.usage.reasoning), std::string_view(reply.purpose)})
            .rows;
    const std::string_view payer =
        reply.purpose == std::string_view("plan") ? label_of_agent(claimed) : kLabelOfWhatIf;
    count_tokens(payer, tokens);
    const pg::Row& cost = rows.front();
    if (cost.is_null(0))
        count_unpriced(reply.model, tokens);
    else
        count_cost(payer, cost.number(0), cost.text(1));
    return {cost.optional_text(2), cost.is_null(1) ? std::string() : cost.text(1)};
}

void add_to_run(const ClaimedMission& claimed, const PaidReply& reply, int rounds,
                int64_t reserved) {
    static pg::Statement add_to_run(R"sql(
UPDATE mana_ai.runs
   SET rounds = $3, prompt_tokens = prompt_tokens + $4, completion_tokens = completion_tokens + $5,
       total_tokens = total_tokens + $6, reserved_tokens = $7, cached_tokens = cached_tokens + $8,
       reasoning_tokens = reasoning_tokens + $9, model = coalesce($10, model),
       answered_by = coalesce($11, answered_by)
 WHERE user_id = $1 AND run_id = $2::uuid)sql");
    std::optional<std::string> asked;
    std::optional<std::string> answered;
    if (reply.is_of_planner) {
        asked = reply.asked_model;
        answered = reply.model;
    }
    add_to_run.execute({std::string_view(claimed.user_id), std::string_view(claimed.run_id),
                        int64_t{rounds}, reply.usage.prompt, reply.usage.completion,
                        reply.usage.total, reserved, reply.usage.cached, reply.usage.reasoning,
                        pg::text_or_null(asked), pg::text_or_null(answered)});
}

bool mission_has_changed(const ClaimedMission& claimed) {
    static pg::Statement lock_snapshot(R"sql(
SELECT version FROM mana_ai.mission_snapshots WHERE user_id = $1 AND mission_id = $2
   FOR UPDATE)sql");
    const auto rows =
        lock_snapshot
            .execute({std::string_view(claimed.user_id), std::string_view(claimed.mission_id)})
            .rows;
    return !rows.empty() && rows.front().number(0) != claimed.mission_version;
}

bool hold_lease(const ClaimedMission& claimed) {
    static pg::Statement lock_row(R"sql(
SELECT 1 FROM mana_ai.mission_schedule
 WHERE user_id = $1 AND mission_id = $2 AND lease_owner = $3 AND run_id = $4::uuid
   FOR UPDATE NOWAIT)sql");
    return !lock_row
                .execute({std::string_view(claimed.user_id), std::string_view(claimed.mission_id),
                          int64_t{claimed.engine}, std::string_view(claimed.run_id)})
                .rows.empty();
}

void finish_run(const ClaimedMission& claimed, const RunResult& result, core::Instant now) {
    forget_iterations(claimed);
    // "running" is a parameter so that the planner cannot choose the partial index on running rows,
    // which looks empty to it but does not find a row by its key.
    static pg::Statement finish(R"sql(
UPDATE mana_ai.runs
   SET outcome = $3, finished_at = $4, rounds = $5, steps = $6, iteration_id = $7,
       error_kind = $8, error_message = $9, lease_owner = NULL, decision = $11,
       prompt_version = $12
 WHERE user_id = $1 AND run_id = $2::uuid AND outcome = $10)sql");
    const auto iteration_id = non_empty(result.iteration_id);
    const auto error_kind = non_empty(result.error_kind);
    const auto error_message = non_empty(result.error_message);
    const auto prompt_version = non_empty(result.prompt_version);
    const uint64_t ended =
        finish
            .execute({std::string_view(claimed.user_id), std::string_view(claimed.run_id),
                      std::string_view(name(result.outcome)), pg::Timestamp{now},
                      int64_t{result.rounds}, int64_t{result.steps}, pg::text_or_null(iteration_id),
                      pg::text_or_null(error_kind), pg::text_or_null(error_message),
                      std::string_view("running"), std::string_view(result.decision),
                      pg::text_or_null(prompt_version)})
            .processed;
    if (ended == 0)
        return;
    write_lineage(claimed, result.events.lineage);
    count_outcome(result);
    count_decision(claimed, result);
}

void release_lease(const ClaimedMission& claimed) {
    static pg::Statement release(R"sql(
UPDATE mana_ai.mission_schedule
   SET lease_owner = NULL, run_id = NULL, attempts = 0, not_before = NULL, error_kind = NULL,
       wake_at = due_at, problem = NULL, held_since = NULL, told = NULL
 WHERE user_id = $1 AND mission_id = $2 AND lease_owner = $3 AND run_id = $4::uuid)sql");
    release.execute({std::string_view(claimed.user_id), std::string_view(claimed.mission_id),
                     int64_t{claimed.engine}, std::string_view(claimed.run_id)});
}

void release_lease_after_failure(const ClaimedMission& claimed, const std::string& error_kind,
                                 core::Instant not_before, core::Instant now) {
    // A gateway's problem does not count against the mission: the run shows as failed, and the
    // mission is tried again soon, however long the problem lasts.
    static pg::Statement release(R"sql(
UPDATE mana_ai.mission_schedule
   SET lease_owner = NULL, run_id = NULL, not_before = $5,
       attempts = CASE $6 WHEN 'no_healthy_provider' THEN greatest(attempts, 1)
                          ELSE attempts + 1 END,
       error_kind = $6, decided_at = $7, problem = 'failed',
       wake_at = CASE WHEN due_at IS NOT NULL THEN greatest(due_at, $5) END,
       agent_version = $8
 WHERE user_id = $1 AND mission_id = $2 AND lease_owner = $3 AND run_id = $4::uuid)sql");
    release.execute(
        {std::string_view(claimed.user_id), std::string_view(claimed.mission_id),
         int64_t{claimed.engine}, std::string_view(claimed.run_id), pg::Timestamp{not_before},
         std::string_view(error_kind), pg::Timestamp{now},
         claimed.agent_version ? pg::Param(*claimed.agent_version) : pg::Param(pg::Null{INT8OID})});
}

void hold_back(const ClaimedMission& claimed, const RunResult& result, core::Instant not_before,
               core::Instant now) {
    const bool is_same_decision = claimed.previous_decision == result.decision;
    // Notices of crashes are looked up in the runs.
    const bool is_worth_keeping =
        !result.iteration_id.empty() || result.rounds > 0 || result.decision == kSkippedCrashing;
    if (is_same_decision && result.outcome == RunOutcome::Skipped && !is_worth_keeping) {
        static pg::Statement forget_run(
            "DELETE FROM mana_ai.runs WHERE user_id = $1 AND run_id = $2::uuid");
        forget_run.execute({std::string_view(claimed.user_id), std::string_view(claimed.run_id)});
        forget_iterations(claimed);
        count_decision(claimed, result);
    } else {
        finish_run(claimed, result, now);
    }
    static pg::Statement release(std::string(R"sql(
UPDATE mana_ai.mission_schedule s
   SET lease_owner = NULL, run_id = NULL, decision = $5, decided_at = $6, error_kind = $7,
       not_before = $8, agent_version = $9,
       held_since = CASE WHEN $10 THEN coalesce(s.held_since, $6) ELSE $6 END,
       problem = )sql") + problem_of("$5") +
                                 R"sql(,
       wake_at = CASE WHEN due_at IS NOT NULL THEN greatest(due_at, $8) END
 WHERE user_id = $1 AND mission_id = $2 AND lease_owner = $3 AND run_id = $4::uuid)sql");
    const auto error_kind = non_empty(result.error_kind);
    release.execute(
        {std::string_view(claimed.user_id), std::string_view(claimed.mission_id),
         int64_t{claimed.engine}, std::string_view(claimed.run_id),
         std::string_view(result.decision), pg::Timestamp{now}, pg::text_or_null(error_kind),
         pg::Timestamp{not_before},
         claimed.agent_version ? pg::Param(*claimed.agent_version) : pg::Param(pg::Null{INT8OID}),
         is_same_decision});
}

void release_lease_for_research(const ClaimedMission& claimed, const std::string& decision,
                                core::Instant longest_wait, core::Instant now) {
    // If the answer has come since the run asked for it, there is nothing to wait for.
    static pg::Statement release(R"sql(
UPDATE mana_ai.mission_schedule s
   SET lease_owner = NULL, run_id = NULL, decision = $5, decided_at = $6, not_before = w.until,
       problem = CASE WHEN s.attempts > 0 THEN 'failed' END,
       wake_at = CASE WHEN s.due_at IS NOT NULL THEN greatest(s.due_at, w.until) END,
       agent_version = $8
  FROM (SELECT (SELECT j.waiting_since + $7 * interval '1 microsecond'
                  FROM mana_ai.mission_research_jobs j
                 WHERE j.user_id = $1 AND j.mission_id = $2 AND j.state = 'waiting') AS until) w
 WHERE s.user_id = $1 AND s.mission_id = $2 AND s.lease_owner = $3 AND s.run_id = $4::uuid)sql");
    release.execute(
        {std::string_view(claimed.user_id), std::string_view(claimed.mission_id),
         int64_t{claimed.engine}, std::string_view(claimed.run_id), std::string_view(decision),
         pg::Timestamp{now}, longest_wait,
         claimed.agent_version ? pg::Param(*claimed.agent_version) : pg::Param(pg::Null{INT8OID})});
    pg::metrics::count_at_commit(core::Metric::ResearchJobsPendingSkips);
}

int running_runs_of(uint32_t engine) {
    static pg::Statement count_running(R"sql(
SELECT count(*) FROM mana_ai.runs WHERE lease_owner = $1 AND outcome = 'running')sql");
    return static_cast<int>(count_running.execute({int64_t{engine}}).rows.front().number(0));
}

int abandon_runs_of(uint32_t engine, const AbandonedRuns& how, core::Instant now,
                    const std::vector<std::string>& still_running) {
    // An attempt to tell a user why the gates hold the mission back is not a failed run.
    static pg::Statement abandon(std::string(R"sql(
WITH held AS (
  SELECT s.user_id, s.mission_id, s.run_id
    FROM mana_ai.runs r
    JOIN mana_ai.mission_schedule s ON s.user_id = r.user_id AND s.mission_id = r.mission_id
                                   AND s.run_id = r.run_id
   WHERE r.lease_owner = $1 AND r.outcome = 'running' AND r.run_id::text <> ALL ($7)
     FOR UPDATE OF s SKIP LOCKED),
ended AS (
  UPDATE mana_ai.runs r
     SET outcome = $2, error_kind = $3, finished_at = $4, lease_owner = NULL
   WHERE r.lease_owner = $1 AND r.outcome = 'running' AND r.run_id::text <> ALL ($7)
     AND (EXISTS (SELECT FROM held h WHERE h.user_id = r.user_id AND h.run_id = r.run_id)
          OR NOT EXISTS (SELECT FROM mana_ai.mission_schedule s
                          WHERE s.user_id = r.user_id AND s.mission_id = r.mission_id
                            AND s.run_id = r.run_id))
  RETURNING r.user_id, r.mission_id, r.run_id, $5 AND r.decision = 'ran' AS counts),
freed AS (
UPDATE mana_ai.mission_schedule s
   SET lease_owner = NULL, run_id = NULL,
       attempts = s.attempts + CASE WHEN e.counts THEN 1 ELSE 0 END,
       error_kind = CASE WHEN NOT e.counts THEN s.error_kind END,
       problem = CASE WHEN e.counts THEN 'failed' ELSE )sql") +
                                 problem_of("s.decision") + R"sql( END,
       not_before = $6, wake_at = CASE WHEN s.due_at IS NOT NULL THEN greatest(s.due_at, $6) END
  FROM ended e
 WHERE s.user_id = e.user_id AND s.mission_id = e.mission_id AND s.run_id = e.run_id)
SELECT count(*) FROM ended)sql");
    const int64_t ended =
        abandon
            .execute({int64_t{engine}, std::string_view(how.outcome),
                      std::string_view(how.error_kind), pg::Timestamp{now}, how.counts_as_failure,
                      pg::time_or_null(how.not_before), &still_running})
            .rows.front()
            .number(0);
    count_outcomes(how.outcome, ended);
    return static_cast<int>(ended);
}

}  // namespace mana_ai
