#include "mana_ai/extension/process/expired_rows.hpp"

#include <algorithm>
#include <string>

#include "mana_ai/extension/input/decrypt_audit.hpp"
#include "mana_ai/pg/random.hpp"
#include "mana_ai/pg/settings.hpp"
#include "mana_ai/pg/spi.hpp"

namespace mana_ai {

namespace {

// Rows of one table in one piece.
constexpr int64_t kDeleteBatch = 2000;
// Runs in one piece: each may have some hundred rows of lineage.
constexpr int64_t kRunBatch = 200;
constexpr int64_t kSweptRuns = 500;

constexpr core::Instant kShortestLedger = 48 * core::kMicrosPerHour;

bool is_whole_batch(const pg::StatementResult& result) {
    return result.processed == static_cast<uint64_t>(kDeleteBatch);
}

// Deletes rows of this table that belong to the expired runs which go next.
std::string delete_lineage_from(const std::string& table) {
    return "DELETE FROM mana_ai." + table + R"sql( WHERE ctid = ANY (ARRAY(
  SELECT l.ctid
    FROM (SELECT run_id FROM mana_ai.runs WHERE started_at < $1 AND outcome <> 'running'
           ORDER BY started_at LIMIT $2) r
    JOIN mana_ai.)sql" +
           table + R"sql( l ON l.run_id = r.run_id LIMIT $3
     FOR UPDATE OF l SKIP LOCKED)))sql";
}

// What they were based on goes first; runs whose lineage is more than one piece wait for the next.
bool delete_expired_runs(core::Instant until) {
    static pg::Statement delete_reads(delete_lineage_from("run_reads"));
    static pg::Statement delete_requests(delete_lineage_from("run_requests"));
    for (pg::Statement* statement : {&delete_reads, &delete_requests})
        if (is_whole_batch(statement->execute({pg::Timestamp{until}, kRunBatch, kDeleteBatch})))
            return true;
    static pg::Statement delete_runs(R"sql(
DELETE FROM mana_ai.runs WHERE ctid = ANY (ARRAY(
  SELECT ctid FROM mana_ai.runs WHERE started_at < $1 AND outcome <> 'running'
   ORDER BY started_at LIMIT $2 FOR UPDATE SKIP LOCKED)))sql");
    return delete_runs.execute({pg::Timestamp{until}, kRunBatch}).processed ==
           static_cast<uint64_t>(kRunBatch);
}

bool delete_expired_evaluations(core::Instant until) {
    static pg::Statement delete_runs(R"sql(
DELETE FROM mana_ai.evaluation_runs WHERE ctid = ANY (ARRAY(
  SELECT r.ctid FROM mana_ai.evaluations e JOIN mana_ai.evaluation_runs r ON r.evaluation_id = e.evaluation_id
   WHERE e.started_at < $1 LIMIT $2 FOR UPDATE OF r SKIP LOCKED)))sql");
    if (is_whole_batch(delete_runs.execute({pg::Timestamp{until}, kDeleteBatch})))
        return true;
    static pg::Statement delete_evaluations(R"sql(
DELETE FROM mana_ai.evaluations WHERE ctid = ANY (ARRAY(
  SELECT e.ctid FROM mana_ai.evaluations e
   WHERE e.started_at < $1
     AND NOT EXISTS (SELECT FROM mana_ai.evaluation_runs r WHERE r.evaluation_id = e.evaluation_id)
   LIMIT $2 FOR UPDATE SKIP LOCKED)))sql");
    return is_whole_batch(delete_evaluations.execute({pg::Timestamp{until}, kDeleteBatch}));
}

}  // namespace

bool delete_expired_rows(core::Instant now) {
    // What runs have cost stays as long as they do; budgets need a day of it.
    const core::Instant retention = pg::settings::runs_retention_us();
    bool more = false;
    if (retention > 0) {
        static pg::Statement delete_usage(R"sql(
DELETE FROM mana_ai.token_usage WHERE ctid = ANY (ARRAY(
  SELECT ctid FROM mana_ai.token_usage WHERE ts < $1 LIMIT $2 FOR UPDATE SKIP LOCKED)))sql");
        const core::Instant until = now - std::max(retention, kShortestLedger);
        more = is_whole_batch(delete_usage.execute({pg::Timestamp{until}, kDeleteBatch}));
    }
    more |= delete_expired_audit(now, kDeleteBatch);
    // Of runs that others have ended.
    static pg::Statement delete_iterations(R"sql(
DELETE FROM mana_ai.iterations_at_claim WHERE ctid = ANY (ARRAY(
  SELECT i.ctid FROM mana_ai.iterations_at_claim i
   WHERE NOT EXISTS (SELECT FROM mana_ai.runs r
                      WHERE r.user_id = i.user_id AND r.run_id = i.run_id AND r.outcome = 'running')
     FOR UPDATE SKIP LOCKED)))sql");
    delete_iterations.execute();
    // A month without a loss, and it counts as new.
    static pg::Statement delete_restored(R"sql(
DELETE FROM mana_ai.restored_iterations WHERE ctid = ANY (ARRAY(
  SELECT ctid FROM mana_ai.restored_iterations
   WHERE restored_at < $1::timestamptz - interval '30 days' LIMIT $2 FOR UPDATE SKIP LOCKED)))sql");
    more |= is_whole_batch(delete_restored.execute({pg::Timestamp{now}, kDeleteBatch}));
    static pg::Statement delete_restored_of_deleted(R"sql(
DELETE FROM mana_ai.restored_iterations WHERE ctid = ANY (ARRAY(
  SELECT r.ctid FROM mana_ai.restored_iterations r
   WHERE NOT EXISTS (SELECT FROM mana_ai.mission_snapshots m
                      WHERE m.user_id = r.user_id AND m.mission_id = r.mission_id) LIMIT $1
     FOR UPDATE SKIP LOCKED)))sql");
    more |= is_whole_batch(delete_restored_of_deleted.execute({kDeleteBatch}));
    if (retention == 0)
        return more;
    more |= delete_expired_evaluations(now - retention);
    return delete_expired_runs(now - retention) || more;
}

namespace {

// Of some runs from the position on, by the order of their ids. Moves the position.
class Sweep {
 public:
    explicit Sweep(const std::string& table)
        : find_(R"sql(
WITH RECURSIVE walk(run_id, user_id, n) AS (
  (SELECT l.run_id, l.user_id, 1 FROM mana_ai.)sql" +
                table + R"sql( l WHERE l.run_id > $1::uuid ORDER BY l.run_id LIMIT 1)
   UNION ALL
  SELECT x.run_id, x.user_id, w.n + 1
    FROM walk w
   CROSS JOIN LATERAL (SELECT l.run_id, l.user_id FROM mana_ai.)sql" +
                table + R"sql( l WHERE l.run_id > w.run_id ORDER BY l.run_id LIMIT 1) x
   WHERE w.n < $2)
SELECT w.run_id::text,
       NOT EXISTS (SELECT FROM mana_ai.runs r WHERE r.user_id = w.user_id AND r.run_id = w.run_id)
  FROM walk w ORDER BY w.n)sql"),
          remove_(
              "DELETE FROM mana_ai." + table + R"sql( WHERE ctid = ANY (ARRAY(
  SELECT l.ctid FROM mana_ai.)sql" +
              table +
              " l WHERE l.run_id = ANY ($1::text[]::uuid[]) LIMIT $2 FOR UPDATE SKIP LOCKED))") {}

    void go_on() {
        const auto rows = find_.execute({std::string_view(position_), kSweptRuns}).rows;
        std::vector<std::string> orphans;
        for (const pg::Row& row : rows)
            if (row.number(1) != 0)
                orphans.push_back(row.text(0));
        if (!orphans.empty() && is_whole_batch(remove_.execute({&orphans, kDeleteBatch})))
            return;
        position_ = rows.size() == static_cast<size_t>(kSweptRuns)
                        ? rows.back().text(0)
                        : "00000000-0000-0000-0000-000000000000";
    }

 private:
    pg::Statement find_;
    pg::Statement remove_;
    // A process that does not live long sweeps somewhere else than the one before it.
    std::string position_ = pg::random_uuid();
};

}  // namespace

void sweep_orphaned_lineage() {
    static Sweep reads("run_reads");
    static Sweep requests("run_requests");
    reads.go_on();
    requests.go_on();
}

}  // namespace mana_ai
