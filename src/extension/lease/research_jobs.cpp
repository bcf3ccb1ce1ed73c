#include "mana_ai/extension/lease/research_jobs.hpp"

#include <algorithm>

#include "mana_ai/pg/log.hpp"
#include "mana_ai/pg/metrics.hpp"
#include "mana_ai/pg/postgres.hpp"
#include "mana_ai/pg/settings.hpp"
#include "mana_ai/pg/spi.hpp"
#include "mana_ai/pg/time.hpp"

namespace mana_ai {

namespace {

constexpr int64_t kDeleteBatch = 500;
constexpr int64_t kMaxGivenBack = 5;

std::string_view view(const std::string& text) {
    return text;
}

}  // namespace

bool has_waited_too_long(core::Instant waiting_since, core::Instant now) {
    return now >= waiting_since + pg::settings::deep_research_timeout_us();
}

core::Instant next_poll_after(core::Instant now) {
    return now + std::min(pg::settings::tick_interval_us() * 9 / 10,
                          pg::settings::deep_research_timeout_us());
}

bool intend_research(const std::string& user_id, const std::string& mission_id,
                     const std::string& run_id, core::Instant now) {
    static pg::Statement insert_intent(R"sql(
INSERT INTO mana_ai.mission_research_jobs
       (user_id, mission_id, state, run_id, requested_at, submitted_at, waiting_since, next_poll_at)
VALUES ($1, $2, 'intent', $3::uuid, $4, NULL, NULL, NULL)
    ON CONFLICT DO NOTHING)sql");
    return insert_intent
               .execute({view(user_id), view(mission_id), view(run_id), pg::Timestamp{now}})
               .processed > 0;
}

bool store_submission(const std::string& user_id, const std::string& mission_id,
                      const std::string& run_id, const core::ResearchTask& task,
                      core::Instant now) {
    static pg::Statement store(R"sql(
UPDATE mana_ai.mission_research_jobs
   SET state = 'waiting', task_id = $4, provider_id = nullif($5, ''),
       cost_credits = nullif($6, '')::float8,
       submitted_at = $7, waiting_since = $7, next_poll_at = $8
 WHERE user_id = $1 AND mission_id = $2 AND run_id = $3::uuid AND state = 'intent')sql");
    const std::string provider = pg::printable(task.provider_id);
    const std::string cost = task.cost_credits ? std::to_string(*task.cost_credits) : std::string();
    const bool stored = store
                            .execute({view(user_id), view(mission_id), view(run_id),
                                      view(task.task_id), view(provider), view(cost),
                                      pg::Timestamp{now}, pg::Timestamp{next_poll_after(now)}})
                            .processed > 0;
    if (stored)
        pg::metrics::count_at_commit(core::Metric::ResearchJobsSubmitted,
                                     {core::kDeepResearchProvider});
    return stored;
}

bool offer_research(const std::string& user_id, const std::string& mission_id,
                    const std::string& task_id, core::Instant now) {
    static pg::Statement offer(R"sql(
UPDATE mana_ai.mission_research_jobs
   SET state = 'ready', next_poll_at = NULL, offered = offered + 1, last_polled_at = $4,
       polls = polls + 1
 WHERE user_id = $1 AND mission_id = $2 AND task_id = $3)sql");
    return offer.execute({view(user_id), view(mission_id), view(task_id), pg::Timestamp{now}})
               .processed > 0;
}

void give_research_offer_back(const std::string& user_id, const std::string& mission_id,
                              const std::string& task_id, bool may_be_cause) {
    static pg::Statement give_back(R"sql(
UPDATE mana_ai.mission_research_jobs
   SET offered = greatest(offered - 1, 0), given_back = given_back + $4
 WHERE user_id = $1 AND mission_id = $2 AND task_id = $3 AND state = 'ready')sql");
    give_back.execute(
        {view(user_id), view(mission_id), view(task_id), int64_t{may_be_cause ? 1 : 0}});
}

bool may_give_research_back(const std::string& user_id, const std::string& mission_id,
                            const std::string& task_id, core::Instant now) {
    static pg::Statement select_may(R"sql(
SELECT 1 FROM mana_ai.mission_research_jobs
 WHERE user_id = $1 AND mission_id = $2 AND task_id = $3
   AND given_back >= $4 AND completed_at < $5)sql");
    return select_may
        .execute({view(user_id), view(mission_id), view(task_id), kMaxGivenBack,
                  pg::Timestamp{now - pg::settings::deep_research_timeout_us()}})
        .rows.empty();
}

void note_completed_research(const std::string& user_id, const std::string& mission_id,
                             core::Instant now) {
    static pg::Statement note(R"sql(
UPDATE mana_ai.mission_research_jobs SET completed_at = $3
 WHERE user_id = $1 AND mission_id = $2 AND state = 'ready' AND completed_at IS NULL)sql");
    if (note.execute({view(user_id), view(mission_id), pg::Timestamp{now}}).processed > 0)
        pg::metrics::count_at_commit(core::Metric::ResearchJobsCompleted,
                                     {core::kDeepResearchProvider});
}

void await_research_again(const std::string& user_id, const std::string& mission_id,
                          const std::string& task_id, core::Instant now) {
    static pg::Statement wait_again(R"sql(
UPDATE mana_ai.mission_research_jobs
   SET state = 'waiting', waiting_since = $4, next_poll_at = $5, offered = greatest(offered - 1, 0)
 WHERE user_id = $1 AND mission_id = $2 AND task_id = $3 AND state = 'ready')sql");
    wait_again.execute({view(user_id), view(mission_id), view(task_id), pg::Timestamp{now},
                        pg::Timestamp{next_poll_after(now)}});
}

void close_research(const std::string& user_id, const std::string& mission_id) {
    static pg::Statement delete_job(R"sql(
DELETE FROM mana_ai.mission_research_jobs WHERE user_id = $1 AND mission_id = $2)sql");
    delete_job.execute({view(user_id), view(mission_id)});
    static pg::Statement allow_again(R"sql(
UPDATE mana_ai.mission_schedule SET research_spent = false
 WHERE user_id = $1 AND mission_id = $2 AND research_spent)sql");
    allow_again.execute({view(user_id), view(mission_id)});
}

void note_poll(const std::string& user_id, const std::string& mission_id,
               const std::string& task_id, core::Instant now) {
    static pg::Statement note(R"sql(
UPDATE mana_ai.mission_research_jobs
   SET last_polled_at = $4, next_poll_at = $5, polls = polls + 1
 WHERE user_id = $1 AND mission_id = $2 AND task_id = $3 AND state = 'waiting')sql");
    note.execute({view(user_id), view(mission_id), view(task_id), pg::Timestamp{now},
                  pg::Timestamp{next_poll_after(now)}});
}

namespace {

// The schedule row comes first in the order of locks; no row if the mission no longer exists.
void lock_schedule_row(const std::string& user_id, const std::string& mission_id) {
    static pg::Statement lock_row(R"sql(
SELECT 1 FROM mana_ai.mission_schedule WHERE user_id = $1 AND mission_id = $2 FOR UPDATE NOWAIT)sql");
    lock_row.execute({view(user_id), view(mission_id)});
}

// Frees only missions that wait for research: one that another gate holds back, or that backs off,
// keeps its time.
void free_waiting_mission(const std::string& user_id, const std::string& mission_id) {
    static pg::Statement free_mission(R"sql(
UPDATE mana_ai.mission_schedule SET not_before = NULL, wake_at = due_at
 WHERE user_id = $1 AND mission_id = $2 AND lease_owner IS NULL AND decision = 'skipped-research')sql");
    free_mission.execute({view(user_id), view(mission_id)});
}

}  // namespace

bool give_up_research(const std::string& user_id, const std::string& mission_id,
                      const std::string& task_id, const std::string& run_id) {
    lock_schedule_row(user_id, mission_id);
    static pg::Statement delete_job(R"sql(
DELETE FROM mana_ai.mission_research_jobs
 WHERE user_id = $1 AND mission_id = $2 AND task_id IS NOT DISTINCT FROM nullif($3, '')
   AND ($4 = '' OR run_id::text = $4)
RETURNING completed_at IS NULL)sql");
    const auto deleted =
        delete_job.execute({view(user_id), view(mission_id), view(task_id), view(run_id)}).rows;
    if (deleted.empty())
        return false;
    static pg::Statement remember(R"sql(
UPDATE mana_ai.mission_schedule SET research_spent = true WHERE user_id = $1 AND mission_id = $2)sql");
    remember.execute({view(user_id), view(mission_id)});
    if (!task_id.empty() && deleted.front().number(0) != 0)
        pg::metrics::count_at_commit(core::Metric::ResearchJobsFailed,
                                     {core::kDeepResearchProvider});
    free_waiting_mission(user_id, mission_id);
    return true;
}

bool finish_research(const DueResearch& due) {
    lock_schedule_row(due.user_id, due.mission_id);
    static pg::Statement finish(R"sql(
UPDATE mana_ai.mission_research_jobs SET state = 'ready', next_poll_at = NULL
 WHERE user_id = $1 AND mission_id = $2 AND task_id = $3 AND state = 'waiting')sql");
    if (finish.execute({view(due.user_id), view(due.mission_id), view(due.task_id)}).processed == 0)
        return false;
    note_completed_research(due.user_id, due.mission_id, pg::now());
    free_waiting_mission(due.user_id, due.mission_id);
    return true;
}

std::optional<core::Instant> next_research_poll_at() {
    static pg::Statement select_next(R"sql(
SELECT next_poll_at FROM mana_ai.mission_research_jobs
 WHERE state = 'waiting' ORDER BY next_poll_at LIMIT 1)sql");
    const auto rows = select_next.execute({}, true).rows;
    if (rows.empty())
        return std::nullopt;
    return rows.front().optional_instant(0);
}

std::vector<DueResearch> take_due_research(core::Instant due_until, int limit, core::Instant now) {
    // A scalar subquery is one lookup by key; a join or EXISTS may read the records of all
    // missions. A mission whose snapshot waits for repair may be live. The poll is recorded here,
    // so that a poll without an answer costs no second write.
    static pg::Statement take(R"sql(
UPDATE mana_ai.mission_research_jobs j
   SET next_poll_at = $3, last_polled_at = $4, polls = j.polls + 1
  FROM (SELECT user_id, mission_id FROM mana_ai.mission_research_jobs
         WHERE state = 'waiting' AND next_poll_at <= $1
         ORDER BY next_poll_at LIMIT $2 FOR UPDATE SKIP LOCKED) d
 WHERE j.user_id = d.user_id AND j.mission_id = d.mission_id
RETURNING j.user_id, j.mission_id, j.task_id, j.waiting_since,
          coalesce((SELECT m.record ->> 'state' IN ('active', 'paused')
                      FROM mana_ai.mission_snapshots m
                     WHERE m.user_id = j.user_id AND m.mission_id = j.mission_id), false)
          OR mana_ai.waits_for_repair(j.user_id, j.mission_id))sql");
    std::vector<DueResearch> taken;
    std::vector<std::string> orphan_user, orphan_mission;
    for (pg::Row& row : take.execute({pg::Timestamp{due_until}, int64_t{limit},
                                      pg::Timestamp{next_poll_after(now)}, pg::Timestamp{now}})
                            .rows) {
        if (row.number(4) == 0) {
            orphan_user.push_back(row.take_text(0));
            orphan_mission.push_back(row.take_text(1));
            continue;
        }
        taken.push_back({row.take_text(0), row.take_text(1), row.take_text(2), row.number(3)});
    }
    if (!orphan_user.empty()) {
        static pg::Statement delete_jobs(R"sql(
DELETE FROM mana_ai.mission_research_jobs j USING unnest($1, $2) AS o(user_id, mission_id)
 WHERE j.user_id = o.user_id AND j.mission_id = o.mission_id)sql");
        delete_jobs.execute({&orphan_user, &orphan_mission});
    }
    return taken;
}

void delete_orphaned_research(core::Instant now) {
    // Waiting jobs are checked when they are polled.
    static pg::Statement delete_jobs(R"sql(
DELETE FROM mana_ai.mission_research_jobs WHERE ctid = ANY (ARRAY(
  SELECT j.ctid FROM mana_ai.mission_research_jobs j
   WHERE j.state <> 'waiting' AND j.requested_at < $1::timestamptz - interval '5 minutes'
     AND NOT coalesce((SELECT m.record ->> 'state' IN ('active', 'paused')
                         FROM mana_ai.mission_snapshots m
                        WHERE m.user_id = j.user_id AND m.mission_id = j.mission_id), false)
     AND NOT mana_ai.waits_for_repair(j.user_id, j.mission_id)
   LIMIT $2 FOR UPDATE OF j SKIP LOCKED)))sql");
    delete_jobs.execute({pg::Timestamp{now}, kDeleteBatch});
}

}  // namespace mana_ai
