#include "mana_ai/extension/process/what_if_server.hpp"

#include <algorithm>
#include <chrono>
#include <functional>
#include <utility>

#include "mana_ai/core/text/wipe.hpp"
#include "mana_ai/extension/lease/lineage.hpp"
#include "mana_ai/extension/process/worker_session.hpp"
#include "mana_ai/extension/run/planning_record.hpp"
#include "mana_ai/extension/run/tool_table.hpp"
#include "mana_ai/pg/guard.hpp"
#include "mana_ai/pg/log.hpp"
#include "mana_ai/pg/random.hpp"
#include "mana_ai/pg/session_lock.hpp"
#include "mana_ai/pg/settings.hpp"
#include "mana_ai/pg/spi.hpp"
#include "mana_ai/pg/termination.hpp"
#include "mana_ai/pg/time.hpp"
#include "mana_ai/pg/transaction.hpp"

namespace mana_ai {

namespace {

// As of runs (engine.cpp).
constexpr core::Instant kStopsInterval = 3 * core::kMicrosPerSecond / 10;
constexpr std::chrono::milliseconds kEndKeepTime{500};
// Longer than the longest conversation: the time for which its charges are tried.
constexpr core::Instant kLongestQuestion = 2 * core::kMicrosPerHour;

core::Json text_or_null(const pg::Row& row, size_t column) {
    return row.is_null(column) ? core::Json() : core::Json(row.text(column));
}

// What is on record of runs of these users, in the same order: null where there is nothing.
core::Json facts_of(const core::Json& runs) {
    static pg::Statement select_facts(R"sql(
SELECT r.mission_id, r.agent_id, r.iteration_id, r.outcome, r.total_tokens::text, c.cost::text, c.currency,
       r.run_id IS NOT NULL
  FROM unnest($1, $2) WITH ORDINALITY AS x(run_id, user_id, place)
  LEFT JOIN mana_ai.runs r ON r.user_id = x.user_id AND r.run_id = x.run_id::uuid
  LEFT JOIN LATERAL (
    SELECT CASE WHEN bool_and(u.cost IS NOT NULL) AND count(DISTINCT u.currency) = 1 THEN sum(u.cost) END AS cost,
           CASE WHEN bool_and(u.cost IS NOT NULL) AND count(DISTINCT u.currency) = 1 THEN min(u.currency) END AS currency
      FROM mana_ai.token_usage u WHERE u.run_id = r.run_id AND u.purpose <> 'what_if') c ON true
 ORDER BY x.place)sql");
    std::vector<std::string> ids;
    std::vector<std::string> users;
    for (const core::Json& run : runs) {
        ids.push_back(run.at("run_id"));
        users.push_back(run.at("user_id"));
    }
    core::Json facts = core::Json::array();
    pg::Transaction transaction("mana_ai: looking for past runs");
    for (const pg::Row& row : select_facts.execute({&ids, &users}).rows) {
        if (row.number(7) == 0) {
            facts.push_back(nullptr);
            continue;
        }
        facts.push_back({{"mission_id", row.text(0)},
                         {"agent_id", text_or_null(row, 1)},
                         {"iteration_id", text_or_null(row, 2)},
                         {"outcome", row.text(3)},
                         {"tokens", text_or_null(row, 4)},
                         {"cost", text_or_null(row, 5)},
                         {"currency", text_or_null(row, 6)}});
    }
    transaction.commit();
    return facts;
}

// Of those that have sent a request.
core::Json latest_run_of(const std::string& user_id, const std::string& mission_id) {
    static pg::Statement select_run(R"sql(
SELECT r.run_id::text FROM mana_ai.runs r
 WHERE r.mission_id = $2 AND r.user_id = $1
   AND EXISTS (SELECT FROM mana_ai.run_requests q WHERE q.run_id = r.run_id)
 ORDER BY r.started_at DESC LIMIT 1)sql");
    pg::Transaction transaction("mana_ai: looking for a past run");
    const auto rows =
        select_run.execute({std::string_view(user_id), std::string_view(mission_id)}).rows;
    transaction.commit();
    return rows.empty() ? core::Json() : core::Json(rows.front().text(0));
}

// Of all replies, if each has a price in the same currency.
core::Json cost_of(const WhatIfAnswer& answer) {
    std::vector<std::string> costs;
    for (const auto& cost : answer.costs) {
        if (!cost || !answer.is_priced_in_one_currency)
            return nullptr;
        costs.push_back(*cost);
    }
    if (costs.empty())
        return nullptr;
    static pg::Statement add("SELECT sum(c::numeric)::text FROM unnest($1) AS c");
    pg::Transaction transaction("mana_ai: adding costs");
    const std::string sum = add.execute({&costs}).rows.front().text(0);
    transaction.commit();
    return sum;
}

WhatIfQuestion read_question(const core::Json& json, const std::optional<core::Agent>& agent) {
    WhatIfQuestion question;
    question.id = pg::random_uuid();
    question.claimed.user_id = json.at("user_id");
    question.claimed.mission_id = json.at("mission_id");
    question.claimed.run_id = json.at("run_id");
    question.claimed.lease_expires_at = pg::now() + kLongestQuestion;
    question.agent_id = json.at("agent_id");
    question.agent_tokens = json.at("agent_tokens");
    question.model = json.at("model");
    question.service_tier = json.at("service_tier");
    if (const auto id = json.find("evaluation_id"); id != json.end()) {
        question.evaluated = {*id, question.claimed.run_id, {}};
        for (const core::Json& step : json.at("planned"))
            question.evaluated.planned.push_back(
                {step.at("tool"), step.at("params"), step.at("was_approved")});
    }
    if (agent) {
        question.agent_name = agent->name;
        question.agent_cap = agent->max_tokens_per_day;
    }
    if (json.at("has_cache_key").get<bool>())
        question.prompt_cache_key =
            prompt_cache_key_of(question.claimed.user_id, question.agent_id);
    return question;
}

}  // namespace

WhatIfServer::WhatIfServer()
    : number_(pg::random_uint31()),
      http_(loop_),
      jobs_(loop_),
      tracer_(loop_),
      gates_(loop_, stops_),
      services_{loop_,           nullptr, jobs_,  catalog_, grant_key_, tracer_, resolver_patience_,
                table_patience_, gates_,  stops_, {},       {}},
      wait_set_(loop_.fd()) {
    if (!pg::try_session_lock(pg::LockKey::Engine, number_))
        throw pg::make_error(ERRCODE_INTERNAL_ERROR, "could not take the lock of a new engine");
    std::string problem;
    std::string key = pg::settings::service_key(problem);
    if (!problem.empty())
        pg::log_warning("calls go out without a service key: " + problem);
    services_.authorization = key.empty() ? "" : "Authorization: Bearer " + key;
    core::wipe(key);
    gates_.load_settings(false);
}

WhatIfServer::~WhatIfServer() {
    loop_.cancel_all();
    core::wipe(services_.authorization);
}

core::Json WhatIfServer::answer(const core::Json& question) {
    const std::string_view what = core::string_or(question, "ask", {});
    if (what == "facts")
        return {{"facts", facts_of(question.at("runs"))}};
    if (what == "latest")
        return {{"run_id", latest_run_of(question.at("user_id"), question.at("mission_id"))}};
    return what == "what_if" ? what_if(question) : evaluation(what, question);
}

core::Json WhatIfServer::evaluation(std::string_view what, const core::Json& question) {
    core::Json answer = core::Json::object();
    pg::Transaction transaction("mana_ai: recording an evaluation");
    if (what == "begin") {
        answer["evaluation_id"] = begin_evaluation(question, number_);
    } else if (what == "resume") {
        answer = resume_evaluation(question, number_);
    } else if (what == "note") {
        finish_evaluation_run({question.at("evaluation_id"), question.at("run_id"), {}},
                              question.at("status"), {});
    } else {
        end_evaluation(question.at("evaluation_id"), question.at("ended"));
        answer["report"] = report_of_evaluation(question.at("evaluation_id"));
    }
    transaction.commit();
    return answer;
}

void WhatIfServer::prepare(const std::string& model) {
    if (reload_requested())
        reload_settings();
    services_.http = http_.renewed();
    gates_.keep(model);
    pg::Transaction transaction("mana_ai: preparing a question");
    forget_dead_what_ifs();
    catalog_ = core::ToolCatalog(load_tools().tools);
    stops_ = read_stops();
    transaction.commit();
    stops_seen_at_ = pg::monotonic_now();
}

core::Json WhatIfServer::what_if(const core::Json& json) {
    const core::Instant began = pg::monotonic_now();
    std::optional<core::Agent> agent;
    const std::string agent_id = json.at("agent_id");
    if (!json.at("agent").is_null())
        agent = read_planning_agent(json.at("agent").get_ref<const std::string&>(), agent_id);
    const WhatIfQuestion question = read_question(json, agent);
    prepare(question.model);
    const core::OfferedTools tools = catalog_.offer(agent ? &agent->policy : nullptr);
    WhatIfAnswer answer;
    core::PlannerLoop planner(json.at("system").get_ref<const std::string&>(),
                              json.at("user").get_ref<const std::string&>(), tools);
    if (prompt_version_of(tools.tools_json()) != core::string_or(json, "prompt_version", {})) {
        answer.status = "changed";
        answer.reason = "the offered tools have just changed";
    } else if (is_stopped(stops_, question) || converse(question, planner, answer)) {
        answer.status = "stopped";
        answer.reason = "an operator has stopped it, or the user was erased";
    }
    // Of all, not only of this user or agent.
    if (stops_.all || stops_.models.contains(question.model))
        answer.evaluation_ended = "stopped";
    core::Json result = {{"status", answer.status},
                         {"reason", answer.reason},
                         {"model", answer.model},
                         {"steps", core::to_json(steps_of(planner))},
                         {"rounds", answer.rounds},
                         {"prompt_tokens", answer.usage.prompt},
                         {"cached_tokens", answer.usage.cached},
                         {"completion_tokens", answer.usage.completion},
                         {"tokens", answer.usage.total},
                         {"cost", cost_of(answer)},
                         {"currency", answer.currency},
                         {"evaluation_ended", answer.evaluation_ended},
                         {"is_recorded", answer.is_recorded},
                         {"ms", (pg::monotonic_now() - began) / 1000}};
    if (result.at("cost").is_null())
        result["currency"] = nullptr;
    return result;
}

void WhatIfServer::run_ready() {
    http_.drop_drained();
    loop_.run_ready();
    while (jobs_.pending()) {
        jobs_.flush();
        loop_.run_ready();
        pg::check_for_interrupts();
    }
}

bool WhatIfServer::is_stopped_meanwhile(const WhatIfQuestion& question,
                                        const WhatIfAnswer& answer) {
    if (pg::monotonic_now() - stops_seen_at_ < kStopsInterval)
        return false;
    stops_seen_at_ = pg::monotonic_now();
    try {
        pg::Transaction transaction("mana_ai: looking for stops");
        stops_ = read_stops();
        const bool is_erased = answer.is_announced && !is_on_record(question);
        transaction.commit();
        return is_erased || is_stopped(stops_, question);
    } catch (const pg::PgError& error) {
        if (error.is_interrupt())
            throw;
        return false;  // somebody has locked them; the next look is soon
    }
}

// The cost of a reply that has arrived is recorded first.
void WhatIfServer::end_early(net::EventLoop::TaskId task) {
    http_.hold(true);
    try {
        loop_.run_ready();
        jobs_.keep([](const std::string&) { return true; }, kEndKeepTime);
    } catch (const std::exception&) {
        // What is lost goes to the server's log.
    }
    loop_.cancel(task);
    http_.hold(false);
    pg::Transaction transaction("mana_ai: ending a question");
    forget_what_ifs(number_);
    transaction.commit();
}

// True: it was stopped.
bool WhatIfServer::converse(const WhatIfQuestion& question, core::PlannerLoop& planner,
                            WhatIfAnswer& answer) {
    WhatIfQuestion asked = question;
    asked.engine = number_;
    bool has_ended = false;
    std::exception_ptr failure;
    const net::EventLoop::TaskId task =
        loop_.spawn(ask_what_if(services_, asked, planner, answer), [&](std::exception_ptr error) {
            has_ended = true;
            failure = error;
        });
    std::exception_ptr trouble;
    try {
        for (;;) {
            run_ready();
            if (has_ended)
                break;
            if (is_stopped_meanwhile(asked, answer)) {
                end_early(task);
                return true;
            }
            gates_.report(false, std::nullopt);
            wait_set_.wait(
                std::min(loop_.next_timeout_us().value_or(kStopsInterval), kStopsInterval));
            pg::check_for_interrupts();
        }
    } catch (const std::exception&) {
        trouble = std::current_exception();
    }
    if (trouble) {
        // Only then: this process ignores further requests to end.
        if (pg::termination_requested())
            pg::take_termination();
        if (!has_ended)
            end_early(task);
        std::rethrow_exception(trouble);
    }
    if (failure)
        std::rethrow_exception(failure);
    return false;
}

}  // namespace mana_ai
