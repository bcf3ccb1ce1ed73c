#include "mana_ai/extension/sync/fold_batches.hpp"

#include <algorithm>
#include <optional>

#include "mana_ai/extension/sync/backfill.hpp"
#include "mana_ai/extension/sync/dirty_records.hpp"
#include "mana_ai/extension/sync/log_leaves.hpp"
#include "mana_ai/extension/sync/own_tables.hpp"
#include "mana_ai/extension/sync/sync_table.hpp"
#include "mana_ai/pg/crash_watch.hpp"
#include "mana_ai/pg/failpoint.hpp"
#include "mana_ai/pg/fold_settings.hpp"
#include "mana_ai/pg/guard.hpp"
#include "mana_ai/pg/log.hpp"
#include "mana_ai/pg/shared_state.hpp"
#include "mana_ai/pg/spi.hpp"
#include "mana_ai/pg/time.hpp"
#include "mana_ai/pg/wake.hpp"

extern "C" {
#include "access/relation.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "commands/dbcommands.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"
}

namespace mana_ai {

namespace {

// A batch is over after about this time: the worker's missions wait for it.
constexpr core::Instant kBatchTime = 50'000;
constexpr int64_t kMinRows = 50;
constexpr int64_t kMaxRows = 5'000;
constexpr int64_t kMaxBlocks = 16'384;  // also where there are no rows at all
constexpr int kPatienceMs = 20;

bool has_table() {
    return pg::guarded([] {
        return OidIsValid(get_relname_relid("fold_progress", get_namespace_oid("mana_ai", false)));
    });
}

// A leaf that somebody has locked, or has dropped, has no known size.
struct Measured {
    bool is_open;
    bool has_index;
    BlockNumber blocks;
};
Measured measure(Oid leaf) {
    return pg::guarded([leaf] {
        Relation relation = nullptr;
        if (open_leaf(leaf, false, &relation) != LeafOpened::Opened)
            return Measured{};
        const SyncShape& shape = shape_of(relation);
        const Measured measured{true, OidIsValid(shape.index) && shape.index_finds_record,
                                RelationGetNumberOfBlocks(relation)};
        close_leaf(relation);
        return measured;
    });
}

// Without one each record that has no snapshot would be looked for in the whole leaf.
bool has_indexes(Oid log) {
    static Oid asked = InvalidOid;
    static uint64_t version = 0;
    static bool known = false;
    const uint64_t now = pg::guarded([log] { return leaves_version(log); });
    if (asked == log && version == now)
        return known;
    bool is_known = true;
    bool has_all = true;
    for (const Oid leaf : oids_of_leaves(log)) {
        const Measured measured = measure(leaf);
        is_known &= measured.is_open;
        has_all &= !measured.is_open || measured.has_index;
    }
    asked = is_known ? log : InvalidOid;
    version = now;
    known = has_all;
    return has_all;
}

bool has_worker() {
    if (!pg::shared_state::available() || pg::crash_watch::safe_mode(MyDatabaseId))
        return false;
    const char* name = pg::guarded([] { return get_database_name(MyDatabaseId); });
    return name != nullptr && pg::settings::names_database(name);
}

bool has_held_records() {
    static pg::Statement find(R"sql(
SELECT 1 WHERE EXISTS (SELECT FROM mana_ai.mission_snapshots) OR EXISTS (SELECT FROM mana_ai.agent_snapshots))sql");
    return !find.execute().rows.empty();
}

// Generation 0 is that of no file: the leaf begins anew when it is first opened.
void insert_leaf(const LeafFacts& leaf, const char* holds_claims) {
    static pg::Statement insert(R"sql(
INSERT INTO mana_ai.fold_progress (leaf, trigger, generation, blocks, holds_claims)
VALUES ($1::oid, $2::oid, $3::oid, $4, $5))sql");
    const Measured measured = measure(leaf.leaf);
    insert.execute({int64_t{leaf.leaf}, int64_t{leaf.trigger},
                    int64_t{measured.is_open ? leaf.file : InvalidOid},
                    int64_t{measured.is_open ? measured.blocks : 1},
                    holds_claims == nullptr ? pg::Param(pg::Null{TEXTOID})
                                            : pg::Param(std::string_view(holds_claims))});
}

// Unmarked changes that were there when this process began the fold. A process that only continues
// it does not know: the log is then folded once more.
std::optional<uint64_t> unmarked_at_begin;

struct Place {
    LeafFacts leaf;
    int64_t blocks, agents_until, missions_until;

    bool is_end() const { return agents_until >= blocks && missions_until >= blocks; }
    RecordKind kind() const {
        return agents_until < blocks ? RecordKind::Agent : RecordKind::Mission;
    }
    int64_t next_block() const { return agents_until < blocks ? agents_until : missions_until; }
};

// All agents come before the first mission: whether a mission may be planned depends on its agent.
std::optional<Place> next_place() {
    static pg::Statement select(R"sql(
SELECT leaf::int8, trigger::int8, generation::int8, blocks, agents_until, missions_until
  FROM mana_ai.fold_progress
 ORDER BY agents_until >= blocks, missions_until >= blocks, leaf LIMIT 1)sql");
    const auto rows = select.execute().rows;
    if (rows.empty())
        return std::nullopt;
    const pg::Row& row = rows.front();
    return Place{{static_cast<Oid>(row.number(0)), static_cast<Oid>(row.number(1)),
                  static_cast<Oid>(row.number(2))},
                 row.number(3),
                 row.number(4),
                 row.number(5)};
}

Oid readable_log() {
    return pg::guarded([] {
        const Oid log = attached_relation();
        Relation relation = OidIsValid(log) ? try_relation_open(log, AccessShareLock) : nullptr;
        if (relation == nullptr)
            return InvalidOid;
        const bool can_be_read = log_problem(relation) == nullptr;
        relation_close(relation, AccessShareLock);
        return can_be_read ? log : InvalidOid;
    });
}

void drop_place(Oid leaf) {
    static pg::Statement drop("DELETE FROM mana_ai.fold_progress WHERE leaf = $1::oid");
    drop.execute({int64_t{leaf}});
}

void restart(const LeafFacts& leaf, BlockNumber blocks) {
    static pg::Statement update(R"sql(
UPDATE mana_ai.fold_progress
   SET trigger = $2::oid, generation = $3::oid, blocks = $4, agents_until = 0, missions_until = 0
 WHERE leaf = $1::oid)sql");
    update.execute(
        {int64_t{leaf.leaf}, int64_t{leaf.trigger}, int64_t{leaf.file}, int64_t{blocks}});
}

// Nullopt: the leaf is as it was when its fold began. Else it begins anew, or is dropped.
std::optional<BatchFold> follow_leaf(Oid log, const LeafFacts& leaf) {
    const std::optional<LeafFacts> now = leaf_now(log, leaf.leaf);
    if (!now) {
        drop_place(leaf.leaf);
        return BatchFold::More;
    }
    if (now->trigger == leaf.trigger && now->file == leaf.file)
        return std::nullopt;
    const Measured measured = measure(now->leaf);
    if (!measured.is_open)
        return BatchFold::Busy;
    restart(*now, measured.blocks);
    return BatchFold::More;
}

// The same of all leaves, up to the first that is not.
std::optional<BatchFold> follow_leaves(Oid log) {
    static pg::Statement select(
        "SELECT leaf::int8, trigger::int8, generation::int8 FROM mana_ai.fold_progress");
    for (const pg::Row& row : select.execute().rows) {
        const LeafFacts leaf{static_cast<Oid>(row.number(0)), static_cast<Oid>(row.number(1)),
                             static_cast<Oid>(row.number(2))};
        if (const auto changed = follow_leaf(log, leaf))
            return changed;
    }
    return std::nullopt;
}

void move_on(const Place& place, BlockNumber next) {
    static pg::Statement of_agents(
        "UPDATE mana_ai.fold_progress SET agents_until = $2, problem = NULL WHERE leaf = $1::oid");
    static pg::Statement of_missions(
        "UPDATE mana_ai.fold_progress SET missions_until = $2, problem = NULL WHERE leaf = "
        "$1::oid");
    pg::Statement& update = place.kind() == RecordKind::Agent ? of_agents : of_missions;
    update.execute({int64_t{place.leaf.leaf}, int64_t{next}});
}

void finish(Oid log) {
    const bool is_partitioned =
        pg::guarded([log] { return get_rel_relkind(log) == RELKIND_PARTITIONED_TABLE; });
    static pg::Statement remember_leaves(R"sql(
INSERT INTO mana_ai.folded_leaves AS f (leaf, trigger, generation)
SELECT leaf, trigger, generation FROM mana_ai.fold_progress
    ON CONFLICT (leaf) DO UPDATE
   SET trigger = excluded.trigger, generation = excluded.generation, folded_at = clock_timestamp())sql");
    if (is_partitioned)
        remember_leaves.execute();
    static pg::Statement remember("UPDATE mana_ai.folded_log SET folded_at = clock_timestamp()");
    remember.execute();
    forget_batches();
    if (unmarked_at_begin)
        settle_unmarked_at_commit(*unmarked_at_begin);
    unmarked_at_begin.reset();
    pg::wake_worker_at_commit();
    pg::log_info("the log is folded");
}

// So many that a batch takes its time, as far as the last ones of this kind of record tell.
int64_t rows_a_batch = kMinRows;
std::optional<RecordKind> last_kind;

void adapt(core::Instant took) {
    const double factor =
        static_cast<double>(kBatchTime) / static_cast<double>(std::max<core::Instant>(took, 1));
    rows_a_batch = std::clamp(
        static_cast<int64_t>(static_cast<double>(rows_a_batch) * std::clamp(factor, 0.25, 1.5)),
        kMinRows, kMaxRows);
}

// Else each record of the batch would be found busy, and marked.
bool try_lock_own_tables() {
    return pg::guarded([] {
        const OwnTables tables = own_tables();
        for (const Oid table : {tables.missions.key.table, tables.agents.key.table,
                                tables.tombstones.key.table, tables.schedule.key.table})
            if (!ConditionalLockRelationOid(table, RowExclusiveLock))
                return false;
        return true;
    });
}

// Nullopt: somebody has locked the leaf, or it has changed since it was looked at.
std::optional<BlockNumber> fold_part(Oid log, const Place& place, BatchKind kind) {
    const bool only_mark = kind == BatchKind::OnlyMark;
    if (kind != BatchKind::Usual || last_kind != place.kind())
        rows_a_batch = kMinRows;
    last_kind = place.kind();
    FoldCounts counts;
    const core::Instant began = pg::monotonic_now();
    const int64_t first = place.next_block();
    const SortedLog::Part part{place.kind(),
                               only_mark,
                               static_cast<BlockNumber>(first),
                               static_cast<BlockNumber>(std::min(place.blocks, first + kMaxBlocks)),
                               rows_a_batch,
                               began + kBatchTime};
    struct Result {
        bool is_open;
        BlockNumber next;
    };
    const Result result = pg::guarded([&] {
        Relation leaf = nullptr;
        if (open_leaf(place.leaf.leaf, false, &leaf) != LeafOpened::Opened)
            return Result{};
        if (!is_leaf_as(log, place.leaf)) {
            close_leaf(leaf);
            return Result{};
        }
        LeavesInUse in_use;
        in_use.leaves = list_make1_oid(place.leaf.leaf);
        CommandCounterIncrement();
        Snapshot snapshot = RegisterSnapshot(GetLatestSnapshot());
        PushActiveSnapshot(snapshot);
        SortedLog sorted;
        sorted.begin();
        const BlockNumber next = sorted.add_part(leaf, in_use, snapshot, part);
        MANA_AI_FAILPOINT("batch.read");
        sorted.sort();
        HistoryFold fold(
            log, in_use,
            {.rows = FoldedRows::Some, .patience_ms = kPatienceMs, .only_mark = only_mark}, counts);
        fold.add_all(sorted);
        sorted.end();
        PopActiveSnapshot();
        UnregisterSnapshot(snapshot);
        close_leaf(leaf);
        CommandCounterIncrement();
        return Result{true, next};
    });
    if (!result.is_open)
        return std::nullopt;
    if (!only_mark)
        count_fold(counts);
    adapt(pg::monotonic_now() - began);
    return result.next;
}

}  // namespace

bool should_fold_in_batches(Oid log, const std::vector<Oid>& leaves) {
    if (!has_worker() || !has_table())
        return false;
    int64_t bytes = 0;
    for (const Oid leaf : leaves)
        bytes += int64_t{measure(leaf).blocks} * BLCKSZ;
    return bytes > pg::settings::fold_at_once() && has_indexes(log);
}

void begin_batches(Oid log, LogIs which) {
    const auto unmarked = pg::shared_state::unmarked_changes(MyDatabaseId);
    unmarked_at_begin = unmarked ? std::optional(unmarked->seen) : std::nullopt;
    forget_batches();
    const char* holds_claims = nullptr;
    if (which == LogIs::New) {
        remember_folded(log, {});
        // Snapshots of an earlier time lack what was written since.
        holds_claims = has_held_records() ? "end" : "agents";
    }
    for (const LeafFacts& leaf : all_leaves_now(log))
        insert_leaf(leaf, holds_claims);
}

void add_leaves_to_batches(Oid log, const std::vector<Oid>& leaves) {
    for (const LeafFacts& leaf : all_leaves_now(log))
        if (std::find(leaves.begin(), leaves.end(), leaf.leaf) != leaves.end())
            insert_leaf(leaf, "end");
}

std::vector<Oid> leaves_in_batches() {
    std::vector<Oid> leaves;
    if (!has_table())
        return leaves;
    static pg::Statement select("SELECT leaf::int8 FROM mana_ai.fold_progress");
    for (const pg::Row& row : select.execute().rows)
        leaves.push_back(static_cast<Oid>(row.number(0)));
    return leaves;
}

bool are_batches_abandoned() {
    if (leaves_in_batches().empty())
        return false;
    const auto worker = pg::shared_state::worker_of(MyDatabaseId);
    return !worker || worker->pid == 0;
}

bool may_snapshots_lack_rows() {
    if (!has_table())
        return false;
    static pg::Statement find(
        "SELECT 1 FROM mana_ai.fold_progress WHERE holds_claims = 'end' LIMIT 1");
    return !find.execute().rows.empty();
}

void note_batch_problem(const std::string& sqlstate) {
    const std::optional<Place> place = has_table() ? next_place() : std::nullopt;
    if (!place)
        return;
    static pg::Statement note(R"sql(
UPDATE mana_ai.fold_progress
   SET problem = format('SQLSTATE %s at block %s of %s', $2::text, $3::int8, leaf::regclass)
 WHERE leaf = $1::oid)sql");
    note.execute({int64_t{place->leaf.leaf}, std::string_view(sqlstate), place->next_block()});
}

void forget_batches() {
    if (!has_table())
        return;
    static pg::Statement forget("DELETE FROM mana_ai.fold_progress");
    forget.execute();
}

BatchFold fold_next_batch(BatchKind kind) {
    if (!has_table())
        return BatchFold::None;
    // First, since another fold may end this one.
    if (!pg::guarded([] { return try_to_serialize_folds(); }))
        return BatchFold::Busy;
    const std::optional<Place> place = next_place();
    if (!place)
        return BatchFold::None;
    if (!OidIsValid(pg::guarded([] { return attached_relation(); }))) {
        forget_batches();  // the table was dropped
        return BatchFold::None;
    }
    const Oid log = readable_log();
    if (!OidIsValid(log) || !try_lock_own_tables())
        return BatchFold::Busy;
    if (!has_indexes(log)) {
        pg::log_info("the log has no index that finds a record and is folded at once");
        refresh_snapshots(Basis::Held);
        return BatchFold::None;
    }
    if (const auto changed = follow_leaf(log, place->leaf))
        return *changed;
    if (place->is_end()) {
        if (const auto changed = follow_leaves(log))
            return *changed;
        finish(log);
        return BatchFold::None;
    }
    const std::optional<BlockNumber> next = fold_part(log, *place, kind);
    if (!next)
        return BatchFold::Busy;
    move_on(*place, *next);
    return BatchFold::More;
}

}  // namespace mana_ai
