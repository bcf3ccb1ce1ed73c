#include "mana_ai/extension/run/mission_run.hpp"

#include <functional>
#include <map>
#include <stdexcept>

#include "mana_ai/core/planner/gates.hpp"
#include "mana_ai/core/planner/planner_loop.hpp"
#include "mana_ai/core/planner/prompts.hpp"
#include "mana_ai/core/record/plan_basis.hpp"
#include "mana_ai/core/service/retry_policy.hpp"
#include "mana_ai/core/service/web_research.hpp"
#include "mana_ai/core/text/utf8.hpp"
#include "mana_ai/core/text/wipe.hpp"
#include "mana_ai/crypto/digest.hpp"
#include "mana_ai/crypto/grant.hpp"
#include "mana_ai/extension/input/decrypt_audit.hpp"
#include "mana_ai/extension/input/grant_key.hpp"
#include "mana_ai/extension/input/mission_reading.hpp"
#include "mana_ai/extension/lease/durable_step.hpp"
#include "mana_ai/extension/lease/research_jobs.hpp"
#include "mana_ai/extension/lease/run_metrics.hpp"
#include "mana_ai/extension/lease/run_record.hpp"
#include "mana_ai/extension/lease/watching.hpp"
#include "mana_ai/extension/research/deep_research.hpp"
#include "mana_ai/extension/research/web_research.hpp"
#include "mana_ai/extension/run/budgets.hpp"
#include "mana_ai/extension/run/failure_notices.hpp"
#include "mana_ai/extension/run/input_watches.hpp"
#include "mana_ai/extension/run/model_call.hpp"
#include "mana_ai/extension/run/planning.hpp"
#include "mana_ai/extension/run/write_back.hpp"
#include "mana_ai/extension/sync/sync_table.hpp"
#include "mana_ai/pg/error.hpp"
#include "mana_ai/pg/failpoint.hpp"
#include "mana_ai/pg/guard.hpp"
#include "mana_ai/pg/log.hpp"
#include "mana_ai/pg/postgres.hpp"
#include "mana_ai/pg/random.hpp"
#include "mana_ai/pg/settings.hpp"
#include "mana_ai/pg/time.hpp"

namespace mana_ai {

namespace {

constexpr size_t kMaxErrorMessage = 300;  // characters

void take_totals(const core::PlannerLoop& planner, RunResult& result) {
    result.rounds = planner.rounds();
    result.steps = static_cast<int>(planner.steps().size());
    result.prompt_tokens = planner.usage().prompt;
    result.completion_tokens = planner.usage().completion;
    result.total_tokens = planner.usage().total;
}

// The prompts need the local time, without which "tomorrow" has no meaning.
core::CivilTime local_now() {
    return pg::PostgresTimeZone(pg::settings::timezone()).to_local(pg::now());
}

struct Failure {
    std::string kind;  // of core::ErrorKind, or "database"
    std::string message;
    core::Instant delay = 0;  // until the mission may be tried again
};

// Some gateways quote the refused key.
std::string without_key(std::string message, const std::string& authorization) {
    const size_t space = authorization.rfind(' ');
    if (space == std::string::npos)
        return message;
    const std::string_view key = std::string_view(authorization).substr(space + 1);
    constexpr std::string_view kInstead = "[key]";
    for (size_t at = message.find(key); at != std::string::npos;
         at = message.find(key, at + kInstead.size()))
        message.replace(at, key.size(), kInstead);
    return message;
}

Failure provider_failure(const RunServices& services, const ClaimedMission& claimed,
                         const core::ProviderError& error) {
    Failure failure;
    failure.kind = core::name(error.kind);
    failure.message =
        core::cut_utf8(without_key(error.message, services.authorization), kMaxErrorMessage);
    if (error.http_status != 0)
        failure.message = "HTTP " + std::to_string(error.http_status) + ": " + failure.message;
    failure.delay = core::mission_backoff_delay(error.kind, claimed.attempts + 1,
                                                pg::random_fraction(), error.retry_after);
    return failure;
}

// What keeps a plan of this user from being written; names only what is the operator's.
struct NoPlaceError : std::runtime_error {
    using std::runtime_error::runtime_error;
};

// A caught error without the parts that might quote a user's text.
Failure internal_failure(const ClaimedMission& claimed, const std::exception_ptr& cause) {
    Failure failure;
    failure.kind = "database";
    failure.delay = core::mission_backoff_delay(core::ErrorKind::Unknown, claimed.attempts + 1,
                                                pg::random_fraction(), std::nullopt);
    try {
        std::rethrow_exception(cause);
    } catch (const pg::PgError& error) {
        failure.message = "SQLSTATE " + error.sqlstate_text();
    } catch (const NoPlaceError& error) {
        failure.message = error.what();
    } catch (const std::exception&) {
        failure.kind = "internal";
        failure.message = "internal error";
    }
    return failure;
}

// Writing into a large record takes long, so others' short steps go first.
DatabaseJobs::Sharing sharing_of(const ClaimedMission& claimed) {
    return claimed.is_large || claimed.is_unread ? DatabaseJobs::Sharing::Alone
                                                 : DatabaseJobs::Sharing::Shared;
}

// Ends a run without a plan: end() writes the result; its argument says whether the mission has
// changed since, which may have fixed the cause. If there is a cause to tell, the user is told in
// the same transaction. If the table refuses that row, the run ends after a short while without it,
// and the notice is not tried again until the next plan.
net::Task<void> end_without_plan(RunServices& services, const ClaimedMission& claimed,
                                 std::optional<core::NoticeCause> cause, RunResult& result,
                                 std::function<void(bool has_changed)> end) {
    constexpr core::Instant kPatience = 30 * core::kMicrosPerSecond;
    const core::Instant now = pg::now();
    // A step may run more than once, and end() changes the result.
    const std::string error_kind = result.error_kind;
    bool has_refused = false;
    const auto ending = [&](bool tells) -> DatabaseJobs::Work {
        return [&, tells] {
            const bool has_changed = mission_has_changed(claimed);
            if (!hold_lease(claimed))
                return;
            result.iteration_id.clear();
            if (tells && !has_changed)
                result.iteration_id =
                    write_failure_notice(claimed, *cause, error_kind, now, services.table_patience);
            if (has_refused && !has_changed &&
                is_notice_due(claimed.user_id, claimed.mission_id, *cause, now))
                remember_told(claimed, *cause);
            end(has_changed);
        };
    };
    bool has_ended = false;
    if (cause && pg::settings::report_failures()) {
        DatabaseJobs::Work work = ending(true);
        try {
            co_await write_until_done(services, claimed, std::move(work), sharing_of(claimed),
                                      admit_by_patience(services, claimed),
                                      pg::monotonic_now() + kPatience);
            has_ended = true;
        } catch (const std::exception&) {
            has_refused = true;
            pg::log_warning("the user of mission " + pg::printable(claimed.mission_id) +
                            " could not be told why it does not run");
        }
    }
    if (has_ended)
        co_return;
    DatabaseJobs::Work work = ending(false);
    co_await write_until_done(services, claimed, std::move(work));
}

net::Task<void> record_failure(RunServices& services, const ClaimedMission& claimed,
                               Failure failure, RunResult& result) {
    result.outcome = RunOutcome::Failed;
    result.error_kind = failure.kind;
    result.error_message = failure.message;
    std::optional<core::NoticeCause> cause;
    // A gateway's problem says nothing about the mission, and its user cannot fix it. The caller of
    // run_mission() gets the failure in the result.
    if (!claimed.manual && claimed.attempts + 1 >= kFailuresBeforeNotice &&
        failure.kind != core::name(core::ErrorKind::NoProvider))
        cause = core::NoticeCause::Failed;
    const core::Instant now = pg::now();
    std::function<void(bool)> end = [&](bool has_changed) {
        const core::Instant not_before = has_changed ? now : now + failure.delay;
        finish_run(claimed, result, now);
        release_lease_after_failure(claimed, result.error_kind, not_before, now);
    };
    MANA_AI_FAILPOINT("run.before_failure");
    co_await end_without_plan(services, claimed, cause, result, std::move(end));
    MANA_AI_FAILPOINT("run.after_failure");
}

net::Task<void> record_failure_if_possible(RunServices& services, const ClaimedMission& claimed,
                                           std::exception_ptr cause, RunResult& result) {
    Failure reason = internal_failure(claimed, cause);
    try {
        co_await record_failure(services, claimed, std::move(reason), result);
    } catch (const std::exception&) {
        // The lease expires; the run is then recorded as crashed.
        result.outcome = RunOutcome::Failed;
    }
}

// The gates hold the mission back, or it has crashed repeatedly: the run only tells the user.
net::Task<void> end_with_notice(RunServices& services, const ClaimedMission& claimed,
                                RunResult& result) {
    result.outcome = RunOutcome::Skipped;
    result.decision = claimed.previous_decision;
    if (claimed.notice == core::NoticeCause::Failed) {
        result.decision = kSkippedCrashing;
        result.error_kind = core::kCrashed;
    }
    const core::Instant now = pg::now();
    std::function<void(bool)> end = [&](bool has_changed) {
        result.error_kind.clear();  // this run has not failed
        hold_back(claimed, result, has_changed ? now : now + pg::settings::tick_interval_us(), now);
    };
    MANA_AI_FAILPOINT("run.before_notice");
    co_await end_without_plan(services, claimed, claimed.notice, result, std::move(end));
    MANA_AI_FAILPOINT("run.after_notice");
}

// A provider's error may quote the prompt.
constexpr char kTextWithheld[] = "(the provider's words are not kept: the run had decrypted texts)";

// An attempt costs unwrapping a key and a row of the audit, and will not succeed by itself: a
// change of the mission, or another key, causes the next attempt at once.
constexpr core::Instant kUnreadablePause = 60 * core::kMicrosPerMinute;

net::Task<void> end_unreadable(RunServices& services, const ClaimedMission& claimed,
                               const ReadMission& read, RunResult& result) {
    result.outcome = RunOutcome::Skipped;
    result.decision = core::name(core::GateDecision::SkippedEncrypted);
    result.error_kind = read.unreadable;
    const core::Instant now = pg::now();
    const bool tried = services.grant_key.get() != nullptr;
    const core::Instant pause =
        std::max(tried ? kUnreadablePause : 0, pg::settings::tick_interval_us());
    std::optional<core::NoticeCause> cause;
    if (tried && !claimed.manual && claimed.previous_decision == result.decision)
        cause = core::NoticeCause::Unopened;
    std::function<void(bool)> end = [&](bool has_changed) {
        // If the mission has changed since the run read it, it may open now.
        hold_back(claimed, result, has_changed ? now : now + pause, now);
    };
    MANA_AI_FAILPOINT("run.before_unreadable");
    co_await end_without_plan(services, claimed, cause, result, std::move(end));
    MANA_AI_FAILPOINT("run.after_unreadable");
}

// A research answer that the run was offered and has not used for a plan.
enum class UnusedAnswer : uint8_t {
    None,
    Innocent,  // the run would have ended in the same way without it
    Suspect,   // the service may have failed because of it
};

// The run ended without a fault of the mission. The answer does not count as offered.
void end_without_fault(const ClaimedMission& claimed, UnusedAnswer answer, const RunResult& result,
                       core::Instant not_before, core::Instant now) {
    if (!hold_lease(claimed)) {
        // The mission belongs to another process or was deleted; the run's row must still end.
        RunResult discarded = result;
        discarded.decision = RunResult().decision;
        discarded.outcome = RunOutcome::Discarded;
        finish_run(claimed, discarded, now);
        return;
    }
    if (answer != UnusedAnswer::None)
        give_research_offer_back(claimed.user_id, claimed.mission_id, claimed.research_job->task_id,
                                 answer == UnusedAnswer::Suspect);
    hold_back(claimed, result, not_before, now);
}

// Other runs have used up or reserved a budget since the claim; or the prompt or the reply turned
// out to be too long for the rest.
net::Task<void> end_without_budget(RunServices& services, const ClaimedMission& claimed,
                                   UnusedAnswer answer, RunResult& result) {
    result.outcome = RunOutcome::Skipped;
    result.decision = core::name(core::decision_of(result.events.out_of_budget->scope));
    const core::Instant now = pg::now();
    DatabaseJobs::Work end = [&] {
        // The change may have assigned the mission to another agent.
        const core::Instant not_before =
            mission_has_changed(claimed)
                ? now
                : look_at_budget_again(*result.events.out_of_budget, now,
                                       now + pg::settings::tick_interval_us());
        end_without_fault(claimed, answer, result, not_before, now);
    };
    MANA_AI_FAILPOINT("run.before_budget_end");
    co_await write_until_done(services, claimed, std::move(end));
    MANA_AI_FAILPOINT("run.after_budget_end");
}

// The model service refuses calls or is unavailable, without a fault of the mission. It is claimed
// again as soon as the service allows it.
net::Task<void> end_at_closed_gate(RunServices& services, const ClaimedMission& claimed,
                                   UnusedAnswer answer, Failure reason, core::Instant delay,
                                   RunResult& result) {
    result.outcome = RunOutcome::Skipped;
    result.decision = kSkippedService;
    result.error_kind = reason.kind;
    result.error_message = reason.message;
    const core::Instant now = pg::now();
    DatabaseJobs::Work end = [&] { end_without_fault(claimed, answer, result, now + delay, now); };
    MANA_AI_FAILPOINT("run.before_service_end");
    co_await write_until_done(services, claimed, std::move(end));
    MANA_AI_FAILPOINT("run.after_service_end");
}

// A digest of the plan's basis; empty if the basis cannot be compared between runs.
std::string basis_digest(const ClaimedMission& claimed, const ReadMission& read) {
    const bool skips =
        pg::settings::skip_unchanged() && core::is_recurring(claimed.mission.cadence);
    if (!skips && !may_be_watching(claimed))
        return {};
    const core::Agent* agent = claimed.agent ? &*claimed.agent : nullptr;
    return crypto::sha256_hex(core::plan_basis(claimed.mission, agent, read.versions,
                                               pg::settings::planner_model_list()));
}

bool is_unchanged(const ClaimedMission& claimed, const core::Mission& mission,
                  const std::string& digest) {
    return !digest.empty() && digest == claimed.plan_basis_digest && !claimed.manual &&
           !core::wants_web_research(mission) && !core::wants_deep_research(mission);
}

// Hashed once per set of tools: the text is long, and most runs have the same.
const std::string& prompt_version(const core::OfferedTools& tools) {
    constexpr size_t kMaxKnown = 8;
    static std::map<std::string, std::string, std::less<>> versions;  // by the tools
    const auto known = versions.find(tools.tools_json());
    if (known != versions.end())
        return known->second;
    if (versions.size() >= kMaxKnown)
        versions.clear();
    std::string json(tools.tools_json());
    std::string version = prompt_version_of(json);
    return versions.emplace(std::move(json), std::move(version)).first->second;
}

// Records what this run's requests are made of.
void note_lineage(const ClaimedMission& claimed, ReadMission& read, Lineage& lineage) {
    lineage.reads.clear();
    const core::Mission& mission = claimed.mission;
    lineage.reads.push_back({.role = "mission",
                             .module = {},
                             .table = "aiMissions",
                             .id = claimed.mission_id,
                             .clocks = claimed.mission_clocks,
                             .was_encrypted = mission.has_ciphertext(),
                             .left_out = {}});
    if (claimed.agent)
        lineage.reads.push_back({.role = "agent",
                                 .module = {},
                                 .table = "agents",
                                 .id = claimed.agent->id,
                                 .clocks = claimed.agent_clocks,
                                 .was_encrypted = false,
                                 .left_out = {}});
    else if (mission.agent_id && !mission.agent_id->empty())
        lineage.reads.push_back({.role = "agent",
                                 .module = {},
                                 .table = "agents",
                                 .id = *mission.agent_id,
                                 .clocks = {},
                                 .was_encrypted = false,
                                 .left_out = "missing"});
    for (ReadRecord& record : read.records)
        lineage.reads.push_back(std::move(record));
    read.records.clear();
}

net::Task<void> run_readable(RunServices& services, const ClaimedMission& claimed,
                             ReadMission& read, RunResult& result) {
    const core::Mission& mission = read.opened ? *read.opened : claimed.mission;
    const core::Agent* agent = claimed.agent ? &*claimed.agent : nullptr;
    const std::string digest = basis_digest(claimed, read);
    // Nothing that a prompt shows.
    if (claimed.woken_at && !claimed.manual && !digest.empty() &&
        digest == claimed.plan_basis_digest) {
        DatabaseJobs::Work end = [&] { end_wake_for_nothing(claimed, result); };
        co_await write_until_done(services, claimed, std::move(end));
        co_return;
    }
    if (pg::settings::skip_unchanged() && is_unchanged(claimed, mission, digest)) {
        DatabaseJobs::Work put_off = [&] {
            put_off_unchanged(claimed, result, services.table_patience);
        };
        MANA_AI_FAILPOINT("run.before_put_off");
        co_await write_until_done(services, claimed, std::move(put_off), sharing_of(claimed),
                                  admit_by_patience(services, claimed));
        MANA_AI_FAILPOINT("run.after_put_off");
        co_return;
    }
    // Research may take minutes, and its run must not occupy a place at the model service.
    const bool wants_web_research = core::wants_web_research(mission);
    if (wants_web_research || core::wants_deep_research(mission))
        services.gates.arrived(claimed.run_id);
    ResearchOutcome research = co_await deep_research(services, claimed, mission);
    if (research.wait) {
        co_await end_run_waiting(services, claimed, result);
        co_return;
    }
    const bool was_offered = research.answer.has_value();
    if (research.refused != nullptr) {
        const core::Json reference = {{"module", core::kResearchModule},
                                      {"table", core::kResearchTable},
                                      {"id", core::kDeepResearchInput},
                                      {"used", false},
                                      {"clock", nullptr},
                                      {"reason", research.refused}};
        DatabaseJobs::Work record = [&] { record_further_input(claimed, reference); };
        co_await write_until_done(services, claimed, std::move(record));
    }
    std::string research_failed;  // why
    if (!research.answer && (research.web_instead || wants_web_research)) {
        std::string query = core::research_query(mission);
        WebResearch web = co_await research_web(services, claimed, std::move(query));
        research.answer = std::move(web.found);
        research_failed = std::move(web.reason);
        MANA_AI_FAILPOINT("research.web");
    }
    if (research.answer || !research_failed.empty()) {
        core::Json reference = {{"module", core::kResearchModule},
                                {"table", core::kResearchTable},
                                {"id", core::kResearchInput}};
        reference["used"] = research.answer.has_value();
        if (research.answer) {
            reference["clock"] = core::to_iso_millis(pg::now());
        } else {
            reference["clock"] = nullptr;
            reference["reason"] = research_failed;
        }
        DatabaseJobs::Work record = [&] { record_further_input(claimed, reference); };
        co_await write_until_done(services, claimed, std::move(record));
    }
    if (research.answer)
        read.inputs.push_back(std::move(*research.answer));
    Lineage& lineage = result.events.lineage;
    note_lineage(claimed, read, lineage);
    lineage.local_time = local_now();
    if (research.answer)
        lineage.research = "used";
    else if (!research_failed.empty())
        lineage.research = "failed";
    std::string prompt =
        core::user_prompt(mission, read.inputs, lineage.local_time, !research_failed.empty());
    core::OfferedTools tools = services.catalog.offer(agent != nullptr ? &agent->policy : nullptr);
    result.prompt_version = prompt_version(tools);
    lineage.prompt_version = result.prompt_version;
    core::PlannerLoop planner(core::system_prompt(agent), prompt, std::move(tools));
    core::wipe(prompt);
    read.wipe();
    const auto error = co_await plan_mission(services, claimed, planner, result.events);
    take_totals(planner, result);
    if (error) {
        Failure reason = provider_failure(services, claimed, *error);
        if (read.anything_was_decrypted)
            reason.message = kTextWithheld;
        // The research answer may be what the service fails with; unless nothing was sent, or the
        // service fails others as well.
        bool may_be_mission = false;
        UnusedAnswer answer = was_offered ? UnusedAnswer::Innocent : UnusedAnswer::None;
        if (error->of_service && was_offered && claimed.research_job && !lineage.requests.empty() &&
            !has_failed_others(services, claimed, result.events.asked_model)) {
            answer = UnusedAnswer::Suspect;
            DatabaseJobs::Work look = [&] {
                may_be_mission = !may_give_research_back(claimed.user_id, claimed.mission_id,
                                                         claimed.research_job->task_id, pg::now());
            };
            co_await write_until_done(services, claimed, std::move(look));
        }
        if (error->of_service && !may_be_mission) {
            const core::Instant delay = services.gates.pause_of_planner();
            co_await end_at_closed_gate(services, claimed, answer, std::move(reason), delay,
                                        result);
            co_return;
        }
        co_await record_failure(services, claimed, std::move(reason), result);
        co_return;
    }
    // Replies without a step give no plan: the user would get an empty one.
    if (result.events.out_of_budget && planner.steps().empty()) {
        if (planner.rounds() > 0)
            result.error_message = "the budget was used up before the reply had a step";
        const UnusedAnswer answer = was_offered ? UnusedAnswer::Innocent : UnusedAnswer::None;
        co_await end_without_budget(services, claimed, answer, result);
        co_return;
    }
    // A plan that the budget has cut short must not postpone the next one as unchanged.
    const FinishedPlan plan{planner.steps(), planner.summary(), read.objective_was_decrypted,
                            result.events.out_of_budget ? std::string() : digest};
    SpanScope span(claimed.trace, "db.write_back");
    DatabaseJobs::Work write = [&] {
        write_back(claimed, plan, result, services.table_patience);
        if (result.outcome == RunOutcome::Planned)
            count_last_plan(claimed, services.catalog);
    };
    MANA_AI_FAILPOINT("run.before_write_back");
    co_await write_until_done(services, claimed, std::move(write), sharing_of(claimed),
                              admit_by_patience(services, claimed));
    MANA_AI_FAILPOINT("run.after_write_back");
    span.set("outcome", name(result.outcome));
}

// Of a partitioned table the partition of this user may be missing. Before anything is paid for.
net::Task<void> check_place(RunServices& services, const ClaimedMission& claimed) {
    std::string problem;
    DatabaseJobs::Work look = [&] {
        const char* found = pg::guarded([&] { return place_problem(claimed.user_id.c_str()); });
        problem = found == nullptr ? "" : found;
    };
    co_await write_until_done(services, claimed, std::move(look));
    if (!problem.empty())
        throw NoPlaceError(problem);
}

net::Task<void> run_to_its_end(RunServices& services, const ClaimedMission& claimed,
                               RunResult& result) {
    if (may_lack_place_for_user())
        co_await check_place(services, claimed);
    ReadMission read;
    co_await read_mission(services, claimed, read);
    MANA_AI_FAILPOINT("run.read");
    if (read.unreadable.empty())
        co_await run_readable(services, claimed, read, result);
    else
        co_await end_unreadable(services, claimed, read, result);
}

}  // namespace

net::Task<void> read_mission_alone(RunServices& services, const ClaimedMission& claimed,
                                   std::function<bool()> read, RunResult& result) {
    constexpr core::Instant kPause = core::kMicrosPerSecond / 5;
    std::exception_ptr failure;
    try {
        MANA_AI_FAILPOINT("claim.announced");
        for (bool done = false; !done;) {
            DatabaseJobs::Job job(
                services.jobs, [&] { done = read(); }, DatabaseJobs::Sharing::Alone);
            co_await job;
            if (!done)
                co_await services.loop.sleep_for(kPause);
        }
    } catch (...) {
        failure = std::current_exception();
    }
    if (failure)
        co_await record_failure_if_possible(services, claimed, failure, result);
}

net::Task<void> run_mission(RunServices& services, const ClaimedMission& claimed,
                            RunResult& result) {
    std::exception_ptr failure;
    try {
        MANA_AI_FAILPOINT("run.begin");
        if (claimed.notice)
            co_await end_with_notice(services, claimed, result);
        else
            co_await run_to_its_end(services, claimed, result);
    } catch (...) {
        failure = std::current_exception();
    }
    // The database has refused the plan until the end of the lease: record that if possible.
    if (failure)
        co_await record_failure_if_possible(services, claimed, failure, result);
}

}  // namespace mana_ai
