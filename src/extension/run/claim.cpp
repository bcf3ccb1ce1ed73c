#include "mana_ai/extension/run/claim.hpp"

#include <algorithm>
#include <set>
#include <unordered_set>

#include "mana_ai/core/planner/gates.hpp"
#include "mana_ai/extension/input/decryption.hpp"
#include "mana_ai/extension/lease/run_metrics.hpp"
#include "mana_ai/extension/lease/run_record.hpp"
#include "mana_ai/extension/run/budgets.hpp"
#include "mana_ai/extension/run/cost_budgets.hpp"
#include "mana_ai/extension/run/failure_notices.hpp"
#include "mana_ai/extension/run/planning_record.hpp"
#include "mana_ai/pg/crash_watch.hpp"
#include "mana_ai/pg/failpoint.hpp"
#include "mana_ai/pg/guard.hpp"
#include "mana_ai/pg/metrics.hpp"
#include "mana_ai/pg/random.hpp"
#include "mana_ai/pg/session_lock.hpp"
#include "mana_ai/pg/settings.hpp"
#include "mana_ai/pg/spi.hpp"

namespace mana_ai {

namespace {

// The candidate rows are locked first and then joined, so that the join cannot return rows that
// others have locked. Of the records only the sizes are read, then the parts that planning needs,
// of those not larger than $4; larger clocks of an agent, for values that it does not show, are
// left out. Reservations of an agent are only summed up if it has a cap. An SQL function is planned
// again with each call, so shared_agent() is only called where it is needed.
constexpr char kSelectList[] = R"sql(
SELECT s.user_id, s.mission_id, s.due_at, s.not_before, s.attempts, s.lease_owner, s.wake_at,
       s.decision, s.run_id::text,
       CASE WHEN s.is_read THEN mana_ai.planning_record(s.record, s.clocks) END,
       CASE WHEN s.is_read THEN mana_ai.planning_agent(s.agent_record,
         CASE WHEN mana_ai.raw_size(s.agent_record, s.agent_clocks) <= least($3, $4) THEN s.agent_clocks END) END,
       s.agent_version_now,
       CASE WHEN s.agent_record IS NOT NULL THEN
         (SELECT count(*) FROM mana_ai.runs r
           WHERE r.user_id = s.user_id AND r.agent_id = s.agent_id AND r.outcome = 'running')
         ELSE 0 END,
       s.version, s.plan_basis_digest, s.research_spent, j.state, j.task_id, j.waiting_since,
       j.offered, s.updated_at, s.agent_id, s.size > $3, s.size > $4 AND s.size <= $3,
       s.attempts > 0 AND s.size > $4 AND
         (SELECT r.outcome FROM mana_ai.runs r
           WHERE r.mission_id = s.mission_id AND r.user_id = s.user_id
             AND (r.outcome <> 'skipped' OR r.decision <> 'skipped-crashing')
           ORDER BY r.started_at DESC LIMIT 1) IN ('crashed', 'running'),
       CASE WHEN s.is_read AND s.space_id IS NOT NULL THEN
         mana_ai.member_hold(s.user_id, s.mission_id, s.space_id, s.record, s.clocks) END IS NOT NULL,
       s.agent_is_deleted, s.agent_is_ambiguous, array_to_string(s.told, ','),
       s.attempts >= $5 AND
         (SELECT r.outcome = 'crashed' AND r.decision = 'ran' FROM mana_ai.runs r
           WHERE r.mission_id = s.mission_id AND r.user_id = s.user_id AND r.outcome <> 'canceled'
             AND (r.outcome <> 'skipped' OR r.decision = 'skipped-crashing')
           ORDER BY r.started_at DESC LIMIT 1),
       CASE WHEN s.is_read AND s.agent_record ? 'maxTokensPerDay' THEN
         (SELECT sum(r.reserved_tokens)::bigint FROM mana_ai.runs r
           WHERE r.user_id = s.user_id AND r.agent_id = s.agent_id AND r.outcome = 'running') END,
       (SELECT o.service_tier FROM mana_ai.agent_options o
         WHERE o.user_id = s.user_id AND o.agent_id = s.agent_id),
       s.shared_clocks,
       CASE WHEN s.cut_reply_at > now() - interval '24 hours' THEN s.cut_reply_length END,
       s.woken_at,
       (SELECT o.wake_on_change FROM mana_ai.agent_options o
         WHERE o.user_id = s.user_id AND o.agent_id = s.agent_id)
  FROM (
SELECT s.*, s.record IS NOT NULL AND s.size <= least($3, $4) AS is_read
  FROM (
SELECT s.*, m.record, m.clocks, m.version, m.space_id, a.record AS agent_record,
       a.clocks AS agent_clocks, a.version AS agent_version_now, greatest(m.updated_at, a.updated_at) AS updated_at,
       a.is_deleted AS agent_is_deleted, coalesce(h.is_ambiguous, false) AS agent_is_ambiguous,
       h.read_clocks AS shared_clocks,
       greatest(mana_ai.raw_size(m.record, m.clocks), mana_ai.raw_size(a.record), 0) AS size
  FROM ()sql";

constexpr char kSchedule[] = "SELECT * FROM mana_ai.mission_schedule";

constexpr char kSelectJoins[] = R"sql(
       ) s
  LEFT JOIN LATERAL (SELECT * FROM mana_ai.mission_snapshots x
                      WHERE x.user_id = s.user_id AND x.mission_id = s.mission_id) m ON true
  LEFT JOIN LATERAL (SELECT * FROM mana_ai.agent_snapshots x
                      WHERE x.user_id = s.user_id AND x.agent_id = s.agent_id) o ON true
  LEFT JOIN LATERAL (SELECT x.*
                       FROM (SELECT WHERE s.agent_id IS NOT NULL
                                      AND (o.record IS NULL OR (m.space_id IS NOT NULL AND NOT o.record ? 'name'))
                             OFFSET 0) needed
                      CROSS JOIN LATERAL mana_ai.shared_agent(s.user_id, s.agent_id, m.space_id) x) h
    ON true
  LEFT JOIN LATERAL (SELECT CASE WHEN h.is_ambiguous THEN NULL ELSE coalesce(h.record, o.record) END AS record,
                            CASE WHEN h.is_ambiguous THEN NULL ELSE coalesce(h.version, o.version) END AS version,
                            CASE WHEN h.record IS NULL AND h.is_ambiguous IS NOT TRUE THEN o.clocks END AS clocks,
                            coalesce(h.updated_at, o.updated_at) AS updated_at,
                            coalesce(h.is_deleted, false) AND o.record IS NULL AS is_deleted) a ON true
       ) s ) s
  LEFT JOIN LATERAL (SELECT * FROM mana_ai.mission_research_jobs x
                      WHERE x.user_id = s.user_id AND x.mission_id = s.mission_id) j ON true
 ORDER BY s.wake_at
)sql";

// Records up to this size are read in the claim, many in one transaction. Larger ones are announced
// first and then read alone, so that a crash during that is on record.
constexpr int64_t kReadAtOnce = 64 * 1024;

// A record that cannot be planned is checked again at once when it changes, and otherwise at this
// interval, since a setting may have changed.
constexpr core::Instant kRecordPause = 6 * core::kMicrosPerHour;

enum Column : size_t {
    kUserId,
    kMissionId,
    kDueAt,
    kNotBefore,
    kAttempts,
    kLeaseOwner,
    kWakeAt,
    kDecision,
    kRunId,
    kMissionRecord,
    kAgentRecord,
    kAgentVersion,
    kAgentRunning,
    kMissionVersion,
    kPlanBasisDigest,
    kResearchSpent,
    kJobState,
    kJobTask,
    kJobWaitingSince,
    kJobOffered,
    kUpdatedAt,
    kAgentId,
    kTooLarge,
    kLarge,
    kSuspect,
    kMemberHold,
    kAgentIsDeleted,
    kAgentIsAmbiguous,
    kTold,
    kKeepsCrashing,
    kAgentReserved,
    kServiceTier,
    kSharedClocks,
    kCutReplyLength,
    kWokenAt,
    kWakeOnChange,
};

// The results of one pass; written with one statement each.
struct Writes {
    std::vector<std::string> prolong_user, prolong_mission;
    std::vector<std::string> lost_user, lost_run;  // runs whose lease expired
    std::vector<std::string> announce_user, announce_mission, announce_run;
    std::vector<std::string> claim_user, claim_mission, claim_run, claim_agent, claim_decision,
        claim_reserved, claim_woken;
    std::vector<std::string> skip_user, skip_mission, skip_decision, skip_agent_version, skip_until;
    std::vector<std::string> first_user, first_mission, first_agent, first_run, first_decision;
    std::vector<std::string> park_user, park_mission;  // nothing to do for now
};

std::optional<ResearchJob> research_job_of(const pg::Row& row) {
    if (row.is_null(kJobState))
        return std::nullopt;
    ResearchJob job;
    if (const auto state = core::research_job_state_from_name(row.text(kJobState))) {
        job.state = *state;
        job.task_id = row.text(kJobTask);
    }
    job.waiting_since = row.optional_instant(kJobWaitingSince).value_or(0);
    job.offered = static_cast<int>(row.number(kJobOffered));
    return job;
}

// Research that a due mission waits for. Past its time the run gives it up.
bool is_research_pending(const std::optional<ResearchJob>& job, core::Instant now) {
    return job && !job->task_id.empty() && job->state == core::ResearchJobState::Waiting &&
           !has_waited_too_long(job->waiting_since, now);
}

// Whether the run that has the row's lease may be alive even if the lease has expired: the clock
// may have been set forward.
bool is_running(const ClaimRequest& request, const pg::Row& row) {
    if (row.is_null(kLeaseOwner) || row.is_null(kRunId))
        return false;
    const auto owner = static_cast<uint32_t>(row.number(kLeaseOwner));
    if (owner == request.engine)
        return request.still_running && request.still_running(row.text(kRunId));
    return pg::is_session_lock_held(pg::LockKey::Engine, owner);
}

// Missions may be held back for long after their users were told why.
bool was_told(const pg::Row& row, core::NoticeCause cause) {
    const std::string told = "," + row.text(kTold) + ",";
    return told.find("," + std::string(core::name(cause)) + ",") != std::string::npos;
}

std::vector<std::string> users_of(const std::vector<pg::Row>& rows) {
    std::vector<std::string> users;
    for (const pg::Row& row : rows)
        users.push_back(row.text(kUserId));
    return users;
}

int64_t amount(const pg::Row& row, size_t column) {
    return row.is_null(column) ? 0 : row.number(column);
}

class Pass {
 public:
    Pass(const ClaimRequest& request, const std::vector<pg::Row>& rows, bool is_announced = false)
        : request_(request), is_announced_(is_announced), budgets_(users_of(rows)) {}

    void judge(pg::Row& row, bool due_or_not);
    void write();

    ClaimResult result;

 private:
    int running_of(const AgentKey& key, int64_t in_database);
    void skip(const pg::Row& row, core::GateDecision decision, const std::string& agent_id,
              core::Instant until);
    void claim(pg::Row& row, ClaimedMission claimed);
    bool settle_lease(const pg::Row& row);
    bool has_crashes_to_tell(const pg::Row& row) const;
    bool is_stopped(const std::string& user_id, const std::string& agent_id) const {
        return request_.stops != nullptr && request_.stops->concern(user_id, agent_id);
    }
    void announce(const pg::Row& row, bool manual);

    const ClaimRequest& request_;
    bool is_announced_;  // the lease in the row is ours and nothing was read with it
    bool has_announced_suspect_ = false;
    ClaimBudgets budgets_;
    ClaimCostBudgets cost_budgets_;
    Writes writes_;
    std::map<AgentKey, int> running_;
    std::map<AgentKey, int64_t> reserved_;  // by what this pass has claimed
};

// The number that the gate compares: runs in any process, those claimed earlier in this pass, and,
// for a manual tick, all that the tick has started.
int Pass::running_of(const AgentKey& key, int64_t in_database) {
    const auto [entry, is_new] = running_.try_emplace(key, static_cast<int>(in_database));
    int count = entry->second;
    if (request_.started_by_agent != nullptr)
        count = std::max(count, (*request_.started_by_agent)[key]);
    return count;
}

void Pass::skip(const pg::Row& row, core::GateDecision decision, const std::string& agent_id,
                core::Instant until) {
    const std::string word = core::name(decision);
    result.skipped.push_back({row.text(kUserId), row.text(kMissionId), agent_id, word});
    writes_.skip_user.push_back(row.text(kUserId));
    writes_.skip_mission.push_back(row.text(kMissionId));
    writes_.skip_decision.push_back(word);
    writes_.skip_until.push_back(std::to_string(until));
    writes_.skip_agent_version.push_back(
        row.is_null(kAgentVersion) ? "0" : std::to_string(row.number(kAgentVersion)));
    // The history shows when a mission began to be held back, not every check since.
    if (row.text(kDecision) != word) {
        writes_.first_user.push_back(row.text(kUserId));
        writes_.first_mission.push_back(row.text(kMissionId));
        writes_.first_agent.push_back(agent_id);
        writes_.first_run.push_back(pg::random_uuid());
        writes_.first_decision.push_back(word);
    }
}

void Pass::claim(pg::Row& row, ClaimedMission claimed) {
    claimed.user_id = row.take_text(kUserId);
    claimed.mission_id = row.take_text(kMissionId);
    claimed.run_id = pg::random_uuid();
    claimed.iteration_id = pg::random_uuid();
    claimed.mission_version = row.is_null(kMissionVersion) ? 0 : row.number(kMissionVersion);
    if (!row.is_null(kAgentVersion))
        claimed.agent_version = row.number(kAgentVersion);
    claimed.attempts = static_cast<int>(row.number(kAttempts));
    claimed.previous_decision = row.take_text(kDecision);
    claimed.plan_basis_digest = row.take_text(kPlanBasisDigest);
    claimed.research_spent = row.number(kResearchSpent) != 0;
    claimed.due_at = row.optional_instant(kDueAt);
    claimed.woken_at = row.optional_instant(kWokenAt);
    if (!row.is_null(kWakeOnChange))
        claimed.wake_on_change = row.number(kWakeOnChange) != 0;
    // Causes that held a due mission back do not count as lag: a backoff, a gate that its user or
    // agent has opened, or a late push.
    if (claimed.due_at && *claimed.due_at <= request_.now)
        claimed.runnable_since =
            std::max({*claimed.due_at,
                      row.optional_instant(is_announced_ ? kNotBefore : kWakeAt).value_or(0),
                      row.optional_instant(kUpdatedAt).value_or(0)});
    claimed.started_at = request_.now;
    claimed.lease_expires_at = request_.lease_expires_at;
    claimed.engine = request_.engine;
    claimed.is_large |= is_announced_;
    writes_.claim_user.push_back(claimed.user_id);
    writes_.claim_mission.push_back(claimed.mission_id);
    writes_.claim_run.push_back(claimed.run_id);
    writes_.claim_agent.push_back(claimed.agent ? claimed.agent->id : "");
    writes_.claim_reserved.push_back(std::to_string(claimed.reserved));
    writes_.claim_woken.push_back(claimed.woken_at ? std::to_string(*claimed.woken_at) : "");
    // A mission that is claimed only for a notice stays held back.
    writes_.claim_decision.push_back(!claimed.notice ? core::name(core::GateDecision::Ran)
                                     : claimed.notice == core::NoticeCause::Failed
                                         ? kSkippedCrashing
                                         : claimed.previous_decision);
    result.claimed.push_back(std::move(claimed));
}

// A lease in a row whose time has come has expired (docs/contract/tick.md, leases). False: its run
// is still active.
bool Pass::settle_lease(const pg::Row& row) {
    if (row.is_null(kLeaseOwner) || row.is_null(kRunId))
        return true;
    if (is_running(request_, row)) {
        if (row.number(kLeaseOwner) == int64_t{request_.engine})
            result.prolonged.push_back(row.text(kRunId));
        writes_.prolong_user.push_back(row.text(kUserId));
        writes_.prolong_mission.push_back(row.text(kMissionId));
        return false;
    }
    writes_.lost_user.push_back(row.text(kUserId));
    writes_.lost_run.push_back(row.text(kRunId));
    return true;
}

// Before a mission that has repeatedly crashed the process is tried again, its user is told. That
// is tried once after a crash: if it fails, or crashes the process too, the mission continues
// normally.
bool Pass::has_crashes_to_tell(const pg::Row& row) const {
    constexpr auto kCause = core::NoticeCause::Failed;
    return row.number(kKeepsCrashing) != 0 && !was_told(row, kCause) &&
           is_notice_due(row.text(kUserId), row.text(kMissionId), kCause, request_.now);
}

void Pass::announce(const pg::Row& row, bool manual) {
    ClaimedMission claimed;
    claimed.is_unread = true;
    claimed.is_suspect = row.number(kSuspect) != 0;
    claimed.user_id = row.text(kUserId);
    claimed.mission_id = row.text(kMissionId);
    claimed.run_id = pg::random_uuid();
    claimed.attempts = static_cast<int>(row.number(kAttempts));
    // A failure's pause depends on whether they change.
    claimed.mission_version = row.is_null(kMissionVersion) ? 0 : row.number(kMissionVersion);
    if (!row.is_null(kAgentVersion))
        claimed.agent_version = row.number(kAgentVersion);
    claimed.manual = manual;
    claimed.started_at = request_.now;
    claimed.lease_expires_at = request_.lease_expires_at;
    claimed.engine = request_.engine;
    writes_.announce_user.push_back(claimed.user_id);
    writes_.announce_mission.push_back(claimed.mission_id);
    writes_.announce_run.push_back(claimed.run_id);
    result.claimed.push_back(std::move(claimed));
}

void Pass::judge(pg::Row& row, bool due_or_not) {
    pg::crash_watch::note_mission(row.text(kUserId), row.text(kMissionId));
    if (!is_announced_) {
        const bool is_large = row.number(kLarge) != 0;
        const bool is_suspect = is_large && !due_or_not && row.number(kSuspect) != 0;
        if (is_suspect && (!request_.may_read_suspect || has_announced_suspect_)) {
            result.suspects_left = true;
            return;
        }
        if (!settle_lease(row))
            return;
        const auto due_at = row.optional_instant(kDueAt);
        // This needs nothing of its records.
        if (is_large && due_at && *due_at <= request_.due_until) {
            if (is_stopped(row.text(kUserId), row.text(kAgentId))) {
                result.due++;
                skip(row, core::GateDecision::SkippedStopped, row.text(kAgentId),
                     request_.look_again_at);
                return;
            }
            if (!due_or_not && has_crashes_to_tell(row)) {
                ClaimedMission claimed;
                claimed.notice = core::NoticeCause::Failed;
                claimed.is_large = true;
                result.due++;
                claim(row, std::move(claimed));
                return;
            }
        }
        if (is_large) {
            has_announced_suspect_ |= is_suspect;
            announce(row, due_or_not);
            return;
        }
    }
    ClaimedMission claimed;
    core::GateInput gates{.mission = claimed.mission};
    gates.record_too_large = row.number(kTooLarge) != 0;
    core::Instant look_again_at = request_.now + kRecordPause;
    core::Instant browser_run_until = 0;
    if (!row.is_null(kMissionRecord)) {
        if (auto read = read_planning_mission(row.text(kMissionRecord))) {
            claimed.mission = std::move(read->mission);
            claimed.mission_clocks = std::move(read->clocks);
            claimed.newest_clock = read->newest_clock;
            claimed.browser_run_until = read->browser_run_until;
            browser_run_until = read->browser_run_until;
            gates.clock_ahead = read->newest_clock > request_.now + kMaxClockLead;
            if (gates.clock_ahead)
                look_again_at = std::min(look_again_at, read->newest_clock - kMaxClockLead);
        } else {
            gates.record_unreadable = true;
        }
    }
    const bool is_unread = gates.record_too_large || gates.record_unreadable;
    const auto due_at = row.optional_instant(kDueAt);
    const bool due = due_at.has_value() && *due_at <= request_.due_until;
    // Only missions that are active have a due_at.
    const bool active = is_unread ? due_at.has_value() : claimed.mission.state == "active";
    if (!active || !(due || due_or_not)) {
        writes_.park_user.push_back(row.text(kUserId));
        writes_.park_mission.push_back(row.text(kMissionId));
        return;
    }
    result.due++;

    const core::Mission& mission = claimed.mission;
    if (!is_unread && !row.is_null(kAgentVersion)) {
        if (row.is_null(kAgentRecord))
            gates.record_too_large = true;
        else if (auto read = read_planning_agent(row.text(kAgentRecord), row.text(kAgentId),
                                                 &claimed.agent_clocks))
            claimed.agent = std::move(*read);
        else
            gates.record_unreadable = true;
    }
    if (!row.is_null(kSharedClocks))
        claimed.agent_clocks = std::string(kClocksOfShared) + row.text(kSharedClocks);
    const core::Agent* agent = claimed.agent ? &*claimed.agent : nullptr;
    const AgentKey key{row.text(kUserId),
                       is_unread ? row.text(kAgentId) : mission.agent_id.value_or("")};

    gates.stopped = is_stopped(key.first, key.second);
    gates.agent = agent;
    gates.agent_missing = core::is_agent_missing(mission, agent, row.number(kAgentIsDeleted) != 0,
                                                 row.number(kAgentIsAmbiguous) != 0);
    gates.member_hold = row.number(kMemberHold) != 0;
    gates.agent_running = agent != nullptr ? running_of(key, row.number(kAgentRunning)) : 0;
    const bool is_capped = agent != nullptr && agent->max_tokens_per_day;
    if (is_capped)
        gates.agent_tokens_24h = budgets_.used_by(key.first, agent->id, {});
    claimed.cut_reply_length = amount(row, kCutReplyLength);
    const core::CallNeed first_call =
        need_of_first_call(key.first, row.text(kMissionId), claimed.cut_reply_length);
    std::vector<core::BudgetLimit> limits;
    if (is_capped)
        limits.push_back({core::BudgetScope::Agent, *agent->max_tokens_per_day,
                          gates.agent_tokens_24h, amount(row, kAgentReserved) + reserved_[key],
                          first_call});
    if (mission.max_tokens_per_day)
        limits.push_back({core::BudgetScope::Mission, *mission.max_tokens_per_day,
                          budgets_.used_by(key.first, {}, row.text(kMissionId)), 0, first_call});
    budgets_.add_limits(row.text(kUserId), first_call, limits);
    const std::string agent_id = agent != nullptr ? agent->id : std::string();
    cost_budgets_.add_limits(row.text(kUserId), agent_id, row.text(kMissionId), first_call, limits);
    const core::BudgetJudgement budget = core::judge(limits);
    if (budget.verdict != core::BudgetVerdict::Fits)
        gates.closed_budget = budget.scope;
    gates.max_unreviewed = pg::settings::max_unreviewed();
    // The run finds out whether the grant really opens them, and costs nothing if it does not.
    gates.ciphertext_opened =
        mission.has_ciphertext() && grant_may_open(mission, row.text(kMissionId), request_.now);
    gates.runs_in_browser = browser_run_until > request_.now;
    claimed.research_job = research_job_of(row);
    // run_mission() polls for the answer itself.
    gates.research_pending = !due_or_not && is_research_pending(claimed.research_job, request_.now);
    const core::GateDecision decision = core::judge_gates(gates);
    // A mission that a browser of the user plans right now is running.
    const auto cause = due_or_not || gates.runs_in_browser ? std::nullopt : notice_cause(decision);
    if (cause && row.text(kDecision) == core::name(decision) && !was_told(row, *cause) &&
        is_notice_due(row.text(kUserId), row.text(kMissionId), *cause, request_.now)) {
        claimed.notice = cause;
        claim(row, std::move(claimed));
        return;
    }
    // "ran" is counted at the end of the run, which may decide otherwise.
    if (decision != core::GateDecision::Ran && (agent != nullptr || gates.agent_missing))
        pg::metrics::count_at_commit(core::Metric::AgentDecisions, {core::name(decision)});
    const bool is_over_budget =
        gates.closed_budget && decision == core::decision_of(*gates.closed_budget);
    if (is_over_budget)
        pg::metrics::count_at_commit(core::Metric::BudgetStops, {core::name(budget.scope)});
    if (decision == core::GateDecision::SkippedResearch) {
        // The poll that gets the answer frees the mission.
        skip(row, decision, key.second,
             claimed.research_job->waiting_since + pg::settings::deep_research_timeout_us());
        return;
    }
    if (decision == core::GateDecision::SkippedBrowserRun) {
        skip(row, decision, key.second, browser_run_until);
        return;
    }
    if (decision != core::GateDecision::Ran) {
        core::Instant until = request_.look_again_at;
        if (core::is_about_records(decision))
            until = look_again_at;
        else if (is_over_budget)
            until = look_at_budget_again(budget, request_.now, until);
        skip(row, decision, key.second, until);
        return;
    }
    if (!due_or_not && !is_announced_ && has_crashes_to_tell(row)) {
        claimed.notice = core::NoticeCause::Failed;
        claim(row, std::move(claimed));
        return;
    }
    claimed.agent_tokens_24h = gates.agent_tokens_24h;
    claimed.reserved = tokens_to_reserve(first_call, budget);
    claimed.reserved_alone = budgets_.is_alone();
    budgets_.reserve(row.text(kUserId), claimed.reserved);
    cost_budgets_.reserve(row.text(kUserId), agent_id, claimed.reserved);
    if (agent != nullptr) {
        reserved_[key] += claimed.reserved;
        running_[key]++;
        if (request_.started_by_agent != nullptr)
            (*request_.started_by_agent)[key]++;
    }
    claimed.manual = due_or_not;
    if (agent != nullptr)
        claimed.service_tier = row.optional_text(kServiceTier);
    claim(row, std::move(claimed));
}

void Pass::write() {
    const pg::Timestamp now{request_.now};
    if (!writes_.prolong_user.empty()) {
        static pg::Statement prolong(R"sql(
UPDATE mana_ai.mission_schedule s SET wake_at = $1
  FROM unnest($2, $3) AS p(user_id, mission_id)
 WHERE s.user_id = p.user_id AND s.mission_id = p.mission_id)sql");
        prolong.execute({pg::Timestamp{request_.lease_expires_at}, &writes_.prolong_user,
                         &writes_.prolong_mission});
        result.lease_expires_at = request_.lease_expires_at;
    }
    if (!writes_.lost_run.empty()) {
        static pg::Statement mark_crashed(R"sql(
UPDATE mana_ai.runs r SET outcome = 'crashed', finished_at = $1, error_kind = 'lease-expired', lease_owner = NULL
  FROM unnest($2, $3) AS l(user_id, run_id)
 WHERE r.user_id = l.user_id AND r.run_id = l.run_id::uuid AND r.outcome = 'running')sql");
        const auto ended = mark_crashed.execute({now, &writes_.lost_user, &writes_.lost_run});
        count_outcomes("crashed", static_cast<int64_t>(ended.processed));
    }
    if (!writes_.park_user.empty()) {
        static pg::Statement park(R"sql(
UPDATE mana_ai.mission_schedule s
   SET lease_owner = NULL, run_id = NULL,
       wake_at = CASE WHEN s.due_at > $1 THEN greatest(s.due_at, s.not_before) END
  FROM unnest($2, $3) AS p(user_id, mission_id)
 WHERE s.user_id = p.user_id AND s.mission_id = p.mission_id)sql");
        park.execute(
            {pg::Timestamp{request_.due_until}, &writes_.park_user, &writes_.park_mission});
    }
    if (!writes_.skip_user.empty()) {
        static pg::Statement hold_back(std::string(R"sql(
UPDATE mana_ai.mission_schedule s
   SET lease_owner = NULL, run_id = NULL, decision = k.decision, decided_at = $1,
       held_since = CASE WHEN s.decision = k.decision THEN coalesce(s.held_since, $1) ELSE $1 END,
       problem = )sql") + problem_of("k.decision") +
                                       R"sql(,
       agent_version = k.agent_version::bigint, not_before = k.until,
       wake_at = CASE WHEN s.due_at IS NOT NULL THEN greatest(s.due_at, k.until) END
  FROM (SELECT u.*, timestamptz 'epoch' + u.micros::bigint * interval '1 microsecond' AS until
          FROM unnest($2, $3, $4, $5, $6)
               AS u(user_id, mission_id, decision, agent_version, micros)) k
 WHERE s.user_id = k.user_id AND s.mission_id = k.mission_id)sql");
        hold_back.execute({now, &writes_.skip_user, &writes_.skip_mission, &writes_.skip_decision,
                           &writes_.skip_agent_version, &writes_.skip_until});
    }
    if (!writes_.first_user.empty()) {
        static pg::Statement record_skip(R"sql(
INSERT INTO mana_ai.runs (user_id, mission_id, agent_id, run_id, started_at, finished_at, outcome,
                          decision)
SELECT f.user_id, f.mission_id, nullif(f.agent_id, ''), f.run_id::uuid, $1, $1, 'skipped', f.decision
  FROM unnest($2, $3, $4, $5, $6) AS f(user_id, mission_id, agent_id, run_id, decision))sql");
        record_skip.execute({now, &writes_.first_user, &writes_.first_mission, &writes_.first_agent,
                             &writes_.first_run, &writes_.first_decision});
        count_outcomes(name(RunOutcome::Skipped), static_cast<int64_t>(writes_.first_user.size()));
    }
    if (!writes_.announce_user.empty()) {
        static pg::Statement lease_unread(R"sql(
UPDATE mana_ai.mission_schedule s SET lease_owner = $1, run_id = c.run_id::uuid, wake_at = $2
  FROM unnest($3, $4, $5) AS c(user_id, mission_id, run_id)
 WHERE s.user_id = c.user_id AND s.mission_id = c.mission_id)sql");
        lease_unread.execute({int64_t{request_.engine}, pg::Timestamp{request_.lease_expires_at},
                              &writes_.announce_user, &writes_.announce_mission,
                              &writes_.announce_run});
        static pg::Statement record_attempt(R"sql(
INSERT INTO mana_ai.runs (user_id, mission_id, run_id, started_at, outcome, decision, lease_owner)
SELECT c.user_id, c.mission_id, c.run_id::uuid, $1, 'running', 'ran', $2
  FROM unnest($3, $4, $5) AS c(user_id, mission_id, run_id))sql");
        record_attempt.execute({now, int64_t{request_.engine}, &writes_.announce_user,
                                &writes_.announce_mission, &writes_.announce_run});
    }
    if (!writes_.claim_user.empty()) {
        static pg::Statement lease(std::string(R"sql(
UPDATE mana_ai.mission_schedule s
   SET lease_owner = $2, run_id = c.run_id::uuid, wake_at = $3, decision = c.decision,
       decided_at = $1, problem = )sql") +
                                   problem_of("c.decision") +
                                   R"sql(
  FROM unnest($4, $5, $6, $7) AS c(user_id, mission_id, run_id, decision)
 WHERE s.user_id = c.user_id AND s.mission_id = c.mission_id)sql");
        lease.execute({now, int64_t{request_.engine}, pg::Timestamp{request_.lease_expires_at},
                       &writes_.claim_user, &writes_.claim_mission, &writes_.claim_run,
                       &writes_.claim_decision});
        const std::string model = pg::settings::planner_models().front();
        static pg::Statement record_start(R"sql(
INSERT INTO mana_ai.runs (user_id, mission_id, agent_id, run_id, started_at, outcome, decision,
                          model, lease_owner, reserved_tokens, woken_at)
SELECT c.user_id, c.mission_id, nullif(c.agent_id, ''), c.run_id::uuid, $1, 'running', c.decision, $2,
       $3, c.reserved::bigint,
       timestamptz 'epoch' + nullif(c.woken, '')::bigint * interval '1 microsecond'
  FROM unnest($4, $5, $6, $7, $8, $9, $10)
       AS c(user_id, mission_id, agent_id, run_id, decision, reserved, woken))sql");
        record_start.execute({now, std::string_view(model), int64_t{request_.engine},
                              &writes_.claim_user, &writes_.claim_mission, &writes_.claim_agent,
                              &writes_.claim_run, &writes_.claim_decision, &writes_.claim_reserved,
                              &writes_.claim_woken});
        // One mission after the other: any other join may read the records of all missions, even
        // those that are too large.
        static pg::Statement keep_iterations(R"sql(
INSERT INTO mana_ai.iterations_at_claim (user_id, run_id, iterations)
SELECT c.user_id, c.run_id::uuid, m.iterations
  FROM unnest($1, $2, $3) AS c(user_id, mission_id, run_id)
 CROSS JOIN LATERAL (SELECT x.record -> 'iterations' AS iterations FROM mana_ai.mission_snapshots x
                      WHERE x.user_id = c.user_id AND x.mission_id = c.mission_id
                     OFFSET 0) m
 WHERE jsonb_typeof(m.iterations) = 'array' AND m.iterations <> '[]')sql");
        keep_iterations.execute({&writes_.claim_user, &writes_.claim_mission, &writes_.claim_run});
    }
}

std::vector<core::DueMission> due_missions(const pg::StatementResult& found) {
    std::vector<core::DueMission> due;
    for (const pg::Row& row : found.rows)
        if (!row.is_null(1))
            due.push_back({row.text(0), row.text(1), row.number(2)});
    return due;
}

// Some users after the one where the last walk has stopped, with their first due missions. Rows are
// compared, and the limit is not a parameter, so that the planner cannot choose the index on
// wake_at whatever the statistics say: in that index a user's few rows are behind a million others.
std::vector<core::DueMission> due_of_next_users(const ClaimRequest& request) {
    static pg::Statement walk(R"sql(
WITH RECURSIVE walk AS (
  (SELECT s.user_id, 1 AS n FROM mana_ai.mission_schedule s
    WHERE s.user_id > $2 ORDER BY s.user_id LIMIT 1)
  UNION ALL
  SELECT (SELECT s.user_id FROM mana_ai.mission_schedule s
           WHERE s.user_id > w.user_id ORDER BY s.user_id LIMIT 1), w.n + 1
    FROM walk w WHERE w.n < $3 AND w.user_id IS NOT NULL)
SELECT w.user_id, h.mission_id, h.wake_at
  FROM walk w
  LEFT JOIN LATERAL (SELECT s.mission_id, s.wake_at FROM mana_ai.mission_schedule s
                      WHERE (s.user_id, s.wake_at) >= (w.user_id, timestamptz '-infinity')
                        AND (s.user_id, s.wake_at) <= (w.user_id, $1)
                      ORDER BY s.user_id, s.wake_at LIMIT 4) h ON true
 WHERE w.user_id IS NOT NULL
 ORDER BY w.n)sql");
    const std::string from = request.turns->cursor;
    const auto found = walk.execute({pg::Timestamp{request.due_until}, std::string_view(from),
                                     int64_t{request.users_to_look_at}},
                                    true);
    int users = 0;
    std::string last;
    for (const pg::Row& row : found.rows) {
        if (users == 0 || row.text(0) != last) {
            last = row.text(0);
            users++;
        }
    }
    // After the last user the next claim begins with the first one.
    request.turns->cursor = users < request.users_to_look_at ? std::string() : last;
    return due_missions(found);
}

// The walk continues with the first user who has nothing running and got no turn for lack of room,
// so that nobody waits for a whole round.
void go_back_to_unchosen(core::FairTurns& turns, const std::string& from,
                         const std::vector<core::DueMission>& walked,
                         const std::vector<core::DueMission>& chosen) {
    std::unordered_set<std::string_view> users;
    for (const core::DueMission& mission : chosen)
        users.insert(mission.user_id);
    std::string before = from;
    for (const core::DueMission& mission : walked) {
        if (!users.contains(mission.user_id) && turns.running(mission.user_id) == 0) {
            turns.cursor = before;
            return;
        }
        before = mission.user_id;
    }
}

struct Chosen {
    std::vector<core::DueMission> missions;
    bool are_of_last_look = false;  // from the last pass: some may not be due any more
};

// Whose turn it is. The missions that have been due longest are read first. If there are more, the
// claim also walks through users: one with a million due missions must not hide all others.
Chosen take_turns(const ClaimRequest& request, ClaimResult& result) {
    static pg::Statement select_longest(R"sql(
SELECT user_id, mission_id, wake_at FROM mana_ai.mission_schedule
 WHERE wake_at <= $1 ORDER BY wake_at LIMIT $2)sql");
    constexpr int kFewest = 40;
    const auto limit = static_cast<size_t>(request.limit);
    const auto choose = [&](std::vector<core::DueMission> candidates) {
        return request.turns->choose(std::move(candidates), limit,
                                     pg::settings::max_concurrency_per_user(), result.held_back);
    };
    auto rest = request.turns->take_rest(limit, request.now);
    if (!rest.empty())
        return Chosen{choose(std::move(rest)), true};
    const int looked_at = std::max(kFewest, 4 * request.limit);
    const std::string from = request.turns->cursor;
    std::vector<core::DueMission> others;
    request.turns->looked(request.now);
    auto due = due_missions(
        select_longest.execute({pg::Timestamp{request.due_until}, int64_t{looked_at}}, true));
    if (static_cast<int>(due.size()) < looked_at) {
        if (static_cast<int>(due.size()) <= request.limit)
            request.turns->forget_turns();
    } else {
        others = due_of_next_users(request);
        due.insert(due.end(), others.begin(), others.end());
    }
    request.turns->leave_out_avoided(due, request.now);
    Chosen chosen{choose(std::move(due)), false};
    go_back_to_unchosen(*request.turns, from, others, chosen.missions);
    return chosen;
}

pg::StatementResult select_chosen(const ClaimRequest& request,
                                  const std::vector<core::DueMission>& chosen) {
    static pg::Statement select_by_name(std::string(kSelectList) + R"sql(
         SELECT x.* FROM unnest($6, $7) AS c(user_id, mission_id)
           CROSS JOIN LATERAL (SELECT s.* FROM mana_ai.mission_schedule s
                                WHERE s.user_id = c.user_id AND s.mission_id = c.mission_id
                                  AND s.wake_at <= $1 AND $2::bigint > 0
                                  FOR UPDATE SKIP LOCKED) x
)sql" + kSelectJoins);
    std::vector<std::string> users;
    std::vector<std::string> missions;
    for (const core::DueMission& mission : chosen) {
        users.push_back(mission.user_id);
        missions.push_back(mission.mission_id);
    }
    return select_by_name.execute({pg::Timestamp{request.due_until}, int64_t{request.limit},
                                   pg::settings::max_record_size(), kReadAtOnce,
                                   int64_t{kFailuresBeforeNotice}, &users, &missions});
}

pg::StatementResult select_longest_due(const ClaimRequest& request) {
    static pg::Statement select_due(std::string(kSelectList) + kSchedule + R"sql(
         WHERE wake_at <= $1 ORDER BY wake_at LIMIT $2 FOR UPDATE SKIP LOCKED
)sql" + kSelectJoins);
    return select_due.execute({pg::Timestamp{request.due_until}, int64_t{request.limit},
                               pg::settings::max_record_size(), kReadAtOnce,
                               int64_t{kFailuresBeforeNotice}});
}

void avoid_locked(core::FairTurns& turns, const std::vector<core::DueMission>& chosen,
                  const std::vector<pg::Row>& found, core::Instant now) {
    std::set<std::pair<std::string, std::string>> had;
    for (const pg::Row& row : found)
        had.emplace(row.text(kUserId), row.text(kMissionId));
    for (const core::DueMission& mission : chosen) {
        if (!had.contains({mission.user_id, mission.mission_id}))
            turns.avoid(mission, now);
    }
}

}  // namespace

ClaimResult claim_due_missions(const ClaimRequest& request) {
    ClaimResult looked;
    size_t found = 0;
    pg::StatementResult selected;
    if (request.turns != nullptr) {
        const Chosen chosen = take_turns(request, looked);
        selected = select_chosen(request, chosen.missions);
        found = chosen.missions.size();
        looked.locked_in_the_way =
            !chosen.are_of_last_look && selected.rows.size() < chosen.missions.size();
        if (looked.locked_in_the_way)
            avoid_locked(*request.turns, chosen.missions, selected.rows, request.now);
    } else {
        selected = select_longest_due(request);
        found = selected.rows.size();
    }
    Pass pass(request, selected.rows);
    pass.result = std::move(looked);
    for (pg::Row& row : selected.rows)
        pass.judge(row, false);
    // Suspects that were skipped would be found again and again.
    pass.result.there_may_be_more =
        found == static_cast<size_t>(request.limit) && !pass.result.suspects_left;
    pass.write();
    return std::move(pass.result);
}

ClaimResult claim_mission(const ClaimRequest& request, const std::string& user_id,
                          const std::string& mission_id) {
    static pg::Statement select_one(std::string(kSelectList) + kSchedule + R"sql(
         WHERE user_id = $1 AND mission_id = $2 FOR UPDATE
)sql" + kSelectJoins);
    auto rows =
        select_one
            .execute({std::string_view(user_id), std::string_view(mission_id),
                      pg::settings::max_record_size(), kReadAtOnce, int64_t{kFailuresBeforeNotice}})
            .rows;
    if (rows.empty())
        throw pg::make_error(ERRCODE_NO_DATA, "mission \"" + mission_id + "\" of user \"" +
                                                  user_id + "\" does not exist");
    pg::Row& row = rows.front();
    if (!row.is_null(kLeaseOwner) &&
        (row.number(kWakeAt) > request.now || is_running(request, row)))
        throw pg::make_error(ERRCODE_OBJECT_IN_USE, "mission \"" + mission_id + "\" of user \"" +
                                                        user_id + "\" is running already");
    Pass pass(request, rows);
    pass.judge(row, true);
    pass.write();
    return std::move(pass.result);
}

std::optional<ClaimResult> read_announced(const ClaimRequest& request,
                                          const ClaimedMission& announced) {
    static pg::Statement forget_announcement(R"sql(
DELETE FROM mana_ai.runs WHERE user_id = $1 AND run_id = $2::uuid AND outcome = $3)sql");
    static pg::Statement lock_row(R"sql(
SELECT 1 FROM mana_ai.mission_schedule
 WHERE user_id = $1 AND mission_id = $2 AND lease_owner = $3 AND run_id = $4::uuid
   FOR UPDATE SKIP LOCKED)sql");
    static pg::Statement find_row(R"sql(
SELECT 1 FROM mana_ai.mission_schedule
 WHERE user_id = $1 AND mission_id = $2 AND lease_owner = $3 AND run_id = $4::uuid)sql");
    static pg::Statement select_announced(std::string(kSelectList) + kSchedule + R"sql(
         WHERE user_id = $1 AND mission_id = $2
)sql" + kSelectJoins);
    const std::string_view user_id = announced.user_id;
    const std::string_view mission_id = announced.mission_id;
    const std::string_view run_id = announced.run_id;
    const auto forget = [&] {
        forget_announcement.execute({user_id, run_id, std::string_view("running")});
    };
    const int64_t engine = announced.engine;
    if (lock_row.execute({user_id, mission_id, engine, run_id}).rows.empty()) {
        if (!find_row.execute({user_id, mission_id, engine, run_id}, true).rows.empty())
            return std::nullopt;
        // It was deleted, or another process has the lease: there is nothing to read.
        forget();
        return ClaimResult{};
    }
    const int64_t limit = pg::settings::max_record_size();
    auto rows = select_announced
                    .execute({user_id, mission_id, limit, limit, int64_t{kFailuresBeforeNotice}})
                    .rows;
    MANA_AI_FAILPOINT("claim.read");
    forget();
    Pass pass(request, rows, true);
    pass.judge(rows.front(), announced.manual);
    pass.write();
    return std::move(pass.result);
}

}  // namespace mana_ai
