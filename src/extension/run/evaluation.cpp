#include "mana_ai/extension/run/evaluation.hpp"

#include "mana_ai/pg/error.hpp"
#include "mana_ai/pg/postgres.hpp"
#include "mana_ai/pg/random.hpp"
#include "mana_ai/pg/session_lock.hpp"
#include "mana_ai/pg/spi.hpp"

extern "C" {
#include "catalog/pg_type_d.h"
}

namespace mana_ai {

namespace {

std::optional<std::string> optional_member(const core::Json& json, const char* key) {
    const auto found = json.find(key);
    return found == json.end() || found->is_null()
               ? std::nullopt
               : std::optional(found->is_string() ? found->get<std::string>()
                                                  : core::dump_json(*found));
}

// A limit in money means nothing if the model's calls have no price.
void set_currency(const std::string& evaluation_id) {
    static pg::Statement set(R"sql(
UPDATE mana_ai.evaluations e SET currency = (mana_ai.dearest_token(e.model, '')).currency
 WHERE e.evaluation_id = $1::uuid AND e.max_cost IS NOT NULL AND e.currency IS NULL
RETURNING e.currency, e.model)sql");
    for (const pg::Row& row : set.execute({std::string_view(evaluation_id)}).rows)
        if (row.is_null(0))
            throw pg::make_error(
                ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                "cannot limit what the model costs, since it has no price",
                "mana_ai.model_prices has no price for model \"" + row.text(1) + "\".");
}

void insert_runs(const std::string& evaluation_id, const core::Json& runs) {
    static pg::Statement insert(R"sql(
INSERT INTO mana_ai.evaluation_runs (evaluation_id, run_id, ordinal, user_id, mission_id, planned_tokens, planned_cost,
                                     planned_currency)
SELECT $1::uuid, r.run_id, x.ordinal, r.user_id, r.mission_id, r.total_tokens, c.cost,
       CASE WHEN c.cost IS NOT NULL THEN c.currency END
  FROM unnest($2, $3) WITH ORDINALITY AS x(run_id, user_id, ordinal)
  JOIN mana_ai.runs r ON r.user_id = x.user_id AND r.run_id = x.run_id::uuid
  LEFT JOIN LATERAL (
    SELECT CASE WHEN bool_and(u.cost IS NOT NULL) AND count(DISTINCT u.currency) = 1 THEN sum(u.cost) END AS cost,
           min(u.currency) AS currency
      FROM mana_ai.token_usage u WHERE u.run_id = r.run_id AND u.purpose <> 'what_if') c ON true)sql");
    std::vector<std::string> ids;
    std::vector<std::string> users;
    for (const core::Json& run : runs) {
        ids.push_back(run.at("run_id"));
        users.push_back(run.at("user_id"));
    }
    insert.execute({std::string_view(evaluation_id), &ids, &users});
}

}  // namespace

std::string begin_evaluation(const core::Json& question, uint32_t engine) {
    static pg::Statement insert(R"sql(
INSERT INTO mana_ai.evaluations (evaluation_id, model, since, sample, max_tokens, max_cost, started_by, engine)
VALUES ($1::uuid, $2, $3, $4, $5, $6::numeric, $7, $8))sql");
    std::string id = pg::random_uuid();
    const std::string model = question.at("model");
    const std::string by = question.at("by");
    const auto max_cost = optional_member(question, "max_cost");
    insert.execute({std::string_view(id), std::string_view(model),
                    pg::Timestamp{question.at("since").get<int64_t>()},
                    question.at("sample").get<int64_t>(), question.at("max_tokens").get<int64_t>(),
                    pg::text_or_null(max_cost), std::string_view(by), int64_t{engine}});
    set_currency(id);
    insert_runs(id, question.at("runs"));
    return id;
}

core::Json resume_evaluation(const core::Json& question, uint32_t engine) {
    static pg::Statement lock(R"sql(
SELECT e.engine, e.model, e.started_by FROM mana_ai.evaluations e WHERE e.evaluation_id = $1::uuid FOR UPDATE NOWAIT)sql");
    static pg::Statement take(R"sql(
UPDATE mana_ai.evaluations
   SET engine = $2, ended = NULL, ended_at = NULL, max_tokens = coalesce($3::bigint, max_tokens),
       max_cost = coalesce($4::numeric, max_cost)
 WHERE evaluation_id = $1::uuid)sql");
    static pg::Statement select_waiting(R"sql(
SELECT run_id::text FROM mana_ai.evaluation_runs WHERE evaluation_id = $1::uuid AND status IS NULL ORDER BY ordinal)sql");
    const std::string id = question.at("evaluation_id");
    const auto rows = lock.execute({std::string_view(id)}).rows;
    if (rows.empty())
        throw pg::make_error(ERRCODE_UNDEFINED_OBJECT, "evaluation " + id + " does not exist");
    // Runs that a role cannot read count as lost.
    if (!question.at("is_superuser").get<bool>() && question.at("by") != rows.front().text(2))
        throw pg::make_error(ERRCODE_INSUFFICIENT_PRIVILEGE,
                             "must be superuser or the role that began the evaluation");
    const auto other = static_cast<uint32_t>(rows.front().number(0));
    if (other != engine && pg::is_session_lock_held(pg::LockKey::Engine, other))
        throw pg::make_error(ERRCODE_OBJECT_IN_USE, "evaluation " + id + " is in progress");
    const auto max_tokens = optional_member(question, "max_tokens");
    const auto max_cost = optional_member(question, "max_cost");
    take.execute({std::string_view(id), int64_t{engine}, pg::text_or_null(max_tokens),
                  pg::text_or_null(max_cost)});
    set_currency(id);
    core::Json waiting = core::Json::array();
    for (const pg::Row& row : select_waiting.execute({std::string_view(id)}).rows)
        waiting.push_back(row.text(0));
    return {{"evaluation_id", id}, {"model", rows.front().text(1)}, {"runs", std::move(waiting)}};
}

void end_evaluation(const std::string& evaluation_id, const std::string& ended) {
    static pg::Statement end(R"sql(
UPDATE mana_ai.evaluations SET ended = $2, ended_at = clock_timestamp() WHERE evaluation_id = $1::uuid)sql");
    end.execute({std::string_view(evaluation_id), std::string_view(ended)});
}

core::Json report_of_evaluation(const std::string& evaluation_id) {
    static pg::Statement select_report(R"sql(
SELECT jsonb_object_agg(x.key, x.value)::text
  FROM mana_ai.evaluation_report r CROSS JOIN LATERAL jsonb_each_text(to_jsonb(r)) x
 WHERE r.evaluation_id = $1::uuid)sql");
    const auto rows = select_report.execute({std::string_view(evaluation_id)}).rows;
    const auto report =
        rows.front().is_null(0) ? std::nullopt : core::parse_json(rows.front().text(0));
    return report.value_or(core::Json::object());
}

const char* evaluation_without_room(const EvaluationRun& run, const std::string& model,
                                    const std::string& tier, const core::CallNeed& need) {
    static pg::Statement select_left(R"sql(
SELECT e.max_tokens - e.tokens, e.max_cost IS NOT NULL,
       floor(least((e.max_cost - coalesce(e.cost, 0)) / nullif(p.price, 0), 9000000000000000000))::bigint,
       e.max_cost IS NOT NULL AND (p.price IS NULL OR p.currency IS DISTINCT FROM e.currency OR e.has_unpriced),
       e.max_cost <= coalesce(e.cost, 0)
  FROM mana_ai.evaluations e CROSS JOIN LATERAL mana_ai.dearest_token($2, $3) p
 WHERE e.evaluation_id = $1::uuid)sql");
    const auto rows = select_left
                          .execute({std::string_view(run.evaluation_id), std::string_view(model),
                                    std::string_view(tier)})
                          .rows;
    if (rows.empty())
        return "deleted";
    const pg::Row& left = rows.front();
    if (left.number(0) < need.total())
        return "max_tokens";
    if (left.number(1) == 0)
        return nullptr;
    if (left.number(3) != 0)
        return "unpriced";
    const bool is_spent = !left.is_null(4) && left.number(4) != 0;
    return is_spent || (!left.is_null(2) && left.number(2) < need.total()) ? "max_cost" : nullptr;
}

void begin_evaluation_run(const EvaluationRun& run) {
    static pg::Statement begin(R"sql(
UPDATE mana_ai.evaluation_runs
   SET rounds = 0, prompt_tokens = 0, cached_tokens = 0, completion_tokens = 0, tokens = 0, cost = NULL, currency = NULL
 WHERE evaluation_id = $1::uuid AND run_id = $2::uuid)sql");
    begin.execute({std::string_view(run.evaluation_id), std::string_view(run.run_id)});
}

void charge_evaluation(const EvaluationRun& run, const core::Usage& usage, const Charge& charge) {
    static pg::Statement add_to_run(R"sql(
UPDATE mana_ai.evaluation_runs
   SET rounds = rounds + 1, prompt_tokens = prompt_tokens + $3, cached_tokens = cached_tokens + $4,
       completion_tokens = completion_tokens + $5, tokens = tokens + $6,
       cost = CASE WHEN rounds = 0 THEN $7::numeric WHEN currency = $8 THEN cost + $7::numeric END, currency = $8
 WHERE evaluation_id = $1::uuid AND run_id = $2::uuid)sql");
    static pg::Statement add(R"sql(
UPDATE mana_ai.evaluations
   SET tokens = tokens + $2, currency = coalesce(currency, $4),
       cost = CASE WHEN coalesce(currency, $4) = $4 THEN coalesce(cost, 0) + $3::numeric ELSE cost END,
       has_unpriced = has_unpriced OR $4 IS NULL OR coalesce(currency, $4) <> $4
 WHERE evaluation_id = $1::uuid)sql");
    std::optional<std::string> currency;
    if (charge.cost)
        currency = charge.currency;
    add_to_run.execute({std::string_view(run.evaluation_id), std::string_view(run.run_id),
                        usage.prompt, usage.cached, usage.completion, usage.total,
                        pg::text_or_null(charge.cost), pg::text_or_null(currency)});
    add.execute({std::string_view(run.evaluation_id), usage.total, pg::text_or_null(charge.cost),
                 pg::text_or_null(currency)});
}

void finish_evaluation_run(const EvaluationRun& run, const std::string& status,
                           const std::vector<core::ComparedStep>& steps) {
    static pg::Statement finish(R"sql(
UPDATE mana_ai.evaluation_runs
   SET status = $3, asked_at = clock_timestamp(), planned_steps = $4, accepted_steps = $5,
       steps = $6, same = $7, added = $8, missing = $9, same_tool = $10, accepted_same = $11, accepted_same_tool = $12
 WHERE evaluation_id = $1::uuid AND run_id = $2::uuid AND status IS NULL)sql");
    const core::PlanDifference difference = core::compare_plans(run.planned, steps);
    const bool is_planned = status == "planned";
    const auto if_planned = [is_planned](size_t count) {
        return is_planned ? pg::Param(static_cast<int64_t>(count)) : pg::Param(pg::Null{INT8OID});
    };
    finish.execute({std::string_view(run.evaluation_id), std::string_view(run.run_id),
                    std::string_view(status), static_cast<int64_t>(run.planned.size()),
                    int64_t{difference.approved}, if_planned(steps.size()),
                    if_planned(difference.same.size()), if_planned(difference.added.size()),
                    if_planned(difference.missing.size()),
                    if_planned(static_cast<size_t>(difference.same_tool)),
                    if_planned(static_cast<size_t>(difference.approved_same)),
                    if_planned(static_cast<size_t>(difference.approved_same_tool))});
}

}  // namespace mana_ai
