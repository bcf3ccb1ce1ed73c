#include "mana_ai/extension/research/deep_research.hpp"

#include "mana_ai/core/planner/gates.hpp"
#include "mana_ai/core/service/web_research.hpp"
#include "mana_ai/core/text/wipe.hpp"
#include "mana_ai/extension/lease/durable_step.hpp"
#include "mana_ai/extension/lease/research_jobs.hpp"
#include "mana_ai/extension/lease/run_record.hpp"
#include "mana_ai/extension/research/research_call.hpp"
#include "mana_ai/extension/research/research_use.hpp"
#include "mana_ai/pg/failpoint.hpp"
#include "mana_ai/pg/log.hpp"
#include "mana_ai/pg/metrics.hpp"
#include "mana_ai/pg/settings.hpp"
#include "mana_ai/pg/time.hpp"

namespace mana_ai {

namespace {

constexpr int64_t kSubmitTimeout = 30 * core::kMicrosPerSecond;
constexpr int64_t kPollTimeout = 15 * core::kMicrosPerSecond;

void log_research(const ClaimedMission& claimed, const std::string& what) {
    pg::log_info("research " + what + ": user=" + pg::printable(claimed.user_id) +
                 " mission=" + pg::printable(claimed.mission_id) + " run=" + claimed.run_id);
}

// not_ordered: the charge for what the service has not accepted, null if there is none.
net::Task<void> give_up(RunServices& services, const ClaimedMission& claimed,
                        const std::string& task_id, const std::string& run_id,
                        const ResearchUse* not_ordered) {
    DatabaseJobs::Work record = [&] {
        give_up_research(claimed.user_id, claimed.mission_id, task_id, run_id);
        if (not_ordered != nullptr)
            take_charge_back(*not_ordered);
    };
    co_await write_until_done(services, claimed, std::move(record));
    MANA_AI_FAILPOINT("research.given_up");
    log_research(claimed, "given up");
}

// Whether the task id is stored; nothing else makes the mission wait. The intent is committed
// before the request is sent, so that no run can order a second time, whatever happens then.
net::Task<bool> order(RunServices& services, const ClaimedMission& claimed,
                      net::HttpRequest request, const char*& refused) {
    ResearchCharge charged;
    DatabaseJobs::Work intend = [&] {
        charged = {};
        if (!hold_lease(claimed))
            return;
        charged = charge_research(claimed, ResearchKind::Deep);
        if (!charged.use ||
            intend_research(claimed.user_id, claimed.mission_id, claimed.run_id, pg::now()))
            return;
        take_charge_back(*charged.use);
        charged = {};
    };
    co_await write_until_done(services, claimed, std::move(intend));
    refused = charged.refused;
    if (refused != nullptr)
        pg::metrics::count(core::Metric::ResearchJobsLimited, {core::kDeepResearchProvider});
    if (!charged.use)
        co_return false;
    MANA_AI_FAILPOINT("research.intended");
    SpanScope span(claimed.trace, "research.submit", core::SpanKind::Client);
    span.add_header(request.headers);
    const net::HttpResponse response = co_await send_research(
        services, ServiceGates::Kind::DeepResearch, claimed.user_id, std::move(request));
    end_research_span(span, response);
    MANA_AI_FAILPOINT("research.answered");
    std::optional<core::ResearchTask> task;
    if (response.error == net::TransportError::None)
        task = core::parse_submission(response.status, response.body);
    if (!task) {
        // A response that was lost or cannot be read may be that of an order, and so may one of a
        // gateway that has not waited for it.
        const bool is_refused =
            response.error == net::TransportError::None &&
            (response.status == 503 || (response.status >= 400 && response.status < 500));
        const bool may_be_ordered = !is_refused && response.may_have_arrived;
        const ResearchUse* const not_ordered = may_be_ordered ? nullptr : &*charged.use;
        const std::string no_task;
        co_await give_up(services, claimed, no_task, claimed.run_id, not_ordered);
        co_return false;
    }
    bool stored = false;
    DatabaseJobs::Work store = [&] {
        stored =
            store_submission(claimed.user_id, claimed.mission_id, claimed.run_id, *task, pg::now());
        count_research_cost(claimed, *charged.use);
    };
    std::string paid = "task=" + pg::printable(task->task_id);
    co_await record_paid(services, claimed, std::move(store), std::move(paid));
    MANA_AI_FAILPOINT("research.stored");
    if (stored)
        log_research(claimed, "ordered");
    co_return stored;
}

// Counts this run as one that was to use the answer; committed before the answer is fetched or
// used, so that a mission that crashes its process does not get it again and again.
net::Task<bool> offer(RunServices& services, const ClaimedMission& claimed) {
    bool offered = false;
    DatabaseJobs::Work record = [&] {
        offered = offer_research(claimed.user_id, claimed.mission_id, claimed.research_job->task_id,
                                 pg::now());
        // A waiting job is offered once its answer is there.
        if (offered && claimed.research_job->state == core::ResearchJobState::Waiting)
            note_completed_research(claimed.user_id, claimed.mission_id, pg::now());
    };
    co_await write_until_done(services, claimed, std::move(record));
    MANA_AI_FAILPOINT("research.offered");
    co_return offered;
}

net::Task<void> hold_for_research(RunServices& services, const ClaimedMission& claimed) {
    const ResearchJob& job = *claimed.research_job;
    DatabaseJobs::Work record = [&] {
        if (job.state == core::ResearchJobState::Ready)
            await_research_again(claimed.user_id, claimed.mission_id, job.task_id, pg::now());
        else
            note_poll(claimed.user_id, claimed.mission_id, job.task_id, pg::now());
    };
    co_await write_until_done(services, claimed, std::move(record));
}

// Follows a job that an earlier run has left.
net::Task<ResearchOutcome> follow(RunServices& services, const ClaimedMission& claimed,
                                  core::ResearchSituation situation) {
    const ResearchJob& job = *claimed.research_job;
    const bool ready = job.state == core::ResearchJobState::Ready;
    situation.has_job = true;
    situation.has_task_id = !job.task_id.empty();
    situation.times_offered = job.offered;
    situation.timeout = pg::settings::deep_research_timeout_us();
    // An answer that existed once is worth waiting for again.
    situation.age = ready ? 0 : pg::now() - job.waiting_since;

    ResearchOutcome outcome;
    core::ResearchStep step = core::next_research_step(situation);
    if (step == core::ResearchStep::Poll) {
        bool still_ours = true;
        if (ready)
            still_ours = co_await offer(services, claimed);
        core::ResearchPoll poll;
        if (still_ours) {
            SpanScope span(claimed.trace, "research.poll", core::SpanKind::Client);
            poll =
                co_await ask_for_research(services, claimed.user_id, job.task_id, std::move(span));
        }
        MANA_AI_FAILPOINT("research.fetched");
        situation.poll = still_ours ? poll.status : core::ResearchStatus::Failed;
        step = core::next_research_step(situation);
        if (step == core::ResearchStep::UseAnswer) {
            if (!ready)
                co_await offer(services, claimed);
            outcome.answer = std::move(poll.answer);
            co_return outcome;
        }
    }
    if (step == core::ResearchStep::Wait) {
        co_await hold_for_research(services, claimed);
        outcome.wait = true;
        co_return outcome;
    }
    const std::string any_run;
    co_await give_up(services, claimed, job.task_id, any_run, nullptr);
    outcome.web_instead = true;
    co_return outcome;
}

}  // namespace

net::Task<core::ResearchPoll> ask_for_research(RunServices& services, const std::string& user_id,
                                               const std::string& task_id, SpanScope span) {
    ResearchCall call{pg::settings::research_url() + core::task_path(task_id), {}, kPollTimeout};
    std::optional<net::HttpRequest> request = research_request(services, user_id, std::move(call));
    core::ResearchPoll poll;
    if (!request)
        co_return poll;
    span.add_header(request->headers);
    const net::HttpResponse response = co_await send_research(
        services, ServiceGates::Kind::DeepResearch, user_id, std::move(*request));
    end_research_span(span, response);
    if (response.error == net::TransportError::None)
        poll = core::parse_poll(response.status, response.body);
    co_return poll;
}

net::Task<ResearchOutcome> deep_research(RunServices& services, const ClaimedMission& claimed,
                                         const core::Mission& mission) {
    core::ResearchSituation situation;
    if (claimed.research_job)
        co_return co_await follow(services, claimed, situation);
    ResearchOutcome outcome;
    if (!pg::settings::deep_research_enabled() || !core::wants_deep_research(mission))
        co_return outcome;
    outcome.web_instead = true;
    std::string query = core::research_query(mission);
    const core::WipeAtEnd wipe_query(query);
    situation.gates_open = !claimed.research_spent && !query.empty();
    if (core::next_research_step(situation) != core::ResearchStep::Submit)
        co_return outcome;
    ResearchCall call{pg::settings::research_url() + core::kDeepResearchPath,
                      core::submit_request(query), kSubmitTimeout};
    std::optional<net::HttpRequest> request =
        research_request(services, claimed.user_id, std::move(call));
    if (!request)
        co_return outcome;
    outcome.wait = co_await order(services, claimed, std::move(*request), outcome.refused);
    co_return outcome;
}

net::Task<void> end_run_waiting(RunServices& services, const ClaimedMission& claimed,
                                RunResult& result) {
    result.outcome = RunOutcome::Skipped;
    result.decision = core::name(core::GateDecision::SkippedResearch);
    DatabaseJobs::Work record = [&] {
        if (!hold_lease(claimed))
            return;
        const core::Instant now = pg::now();
        finish_run(claimed, result, now);
        release_lease_for_research(claimed, result.decision,
                                   pg::settings::deep_research_timeout_us(), now);
    };
    MANA_AI_FAILPOINT("research.before_wait");
    co_await write_until_done(services, claimed, std::move(record));
    MANA_AI_FAILPOINT("research.after_wait");
}

}  // namespace mana_ai
