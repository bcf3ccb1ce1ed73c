#include "mana_ai/extension/sync/snapshots.hpp"

#include <optional>

#include "mana_ai/extension/sync/erased_users.hpp"
#include "mana_ai/extension/sync/input_marks.hpp"
#include "mana_ai/extension/sync/log_leaves.hpp"
#include "mana_ai/extension/sync/lost_iterations.hpp"
#include "mana_ai/extension/sync/mission_schedule.hpp"
#include "mana_ai/extension/sync/own_tables.hpp"
#include "mana_ai/extension/sync/record_problems.hpp"
#include "mana_ai/pg/compat.hpp"
#include "mana_ai/pg/detoast.hpp"
#include "mana_ai/pg/metrics.hpp"
#include "mana_ai/pg/record_lock.hpp"
#include "mana_ai/pg/settings.hpp"
#include "mana_ai/pg/text.hpp"
#include "mana_ai/pg/time.hpp"
#include "mana_ai/pg/wake.hpp"

extern "C" {
#include "access/xact.h"
#include "common/hashfn.h"
#include "utils/datum.h"
#include "utils/snapmgr.h"
}

namespace mana_ai {

namespace {

// The data of the steps below.
struct Work {
    SnapshotStore& store;
    const RecordName& name;
    pg::KeyedTable& snapshots;
    const SnapshotTable& columns;
    Datum snapshot_key[2];
    Datum tombstone_key[3];
    uint64_t name_hash;
    Oid tree;  // InvalidOid: no partition here has its rows
    uint32_t generation;
};

bool is_in_leaf(const SnapshotStore& store, Oid tree) {
    return store.leaf != nullptr && RelationGetRelid(store.leaf) == tree;
}

uint32_t generation_in(const SnapshotStore& store, Oid tree) {
    if (is_in_leaf(store, tree))
        return log_generation(store.leaf);
    return OidIsValid(tree) ? generation_of(tree) : 0;
}

Work begin_work(SnapshotStore& store, const RecordName& name) {
    const bool mission = name.kind == RecordKind::Mission;
    const Oid tree = OidIsValid(store.tree) ? store.tree : tree_of_record(store.log, name.key);
    return {store,
            name,
            mission ? store.missions : store.agents,
            mission ? own_tables().missions : own_tables().agents,
            {name.key.user_id, name.key.record_id},
            {name.key.user_id, name.key.table_name, name.key.record_id},
            name.hash != 0 ? name.hash : name_hash(name.key),
            tree,
            generation_in(store, tree)};
}

bool open_once(SnapshotStore& store, pg::KeyedTable& table, const pg::TableKey& key) {
    if (table.table != nullptr)
        return true;
    const Oid oid = key.table;
    if (!pg::try_lock_table(oid))
        return false;
    own_tables();  // refreshes `key`: the table may have changed before we had the lock
    if (key.table != oid)
        return false;
    MemoryContext outer = MemoryContextSwitchTo(store.memory);
    const bool opened = pg::open_keyed_table(table, key);
    MemoryContextSwitchTo(outer);
    return opened;
}

TimestampTz timestamptz_of(core::Instant instant) {
    if (instant == core::kOlderThanEverything)
        return DT_NOBEGIN;
    return instant == PG_INT64_MAX ? DT_NOEND : pg::timestamptz_from_instant(instant);
}

struct Held {
    RecordState state;
    bool is_whole;  // its clocks fit the record

    bool is_up_to_date() const { return is_whole && !state.is_old_form; }
};

// The state of the snapshot in the slot.
Held read_snapshot(Work& work) {
    TupleTableSlot* slot = work.snapshots.slot;
    bool no_record = false;
    bool no_clocks = false;
    bool is_null = false;
    check_background_size(slot, work.columns.record);
    check_background_size(slot, work.columns.clocks);
    const Datum held_record = slot_getattr(slot, work.columns.record, &no_record);
    const Datum held_clocks = slot_getattr(slot, work.columns.clocks, &no_clocks);
    const Datum space_id = slot_getattr(slot, work.columns.space_id, &is_null);
    // An administrator may have dropped the constraint.
    if (no_record)
        return {};
    const auto* record = reinterpret_cast<const Jsonb*>(pg::detoast_copy(held_record));
    bytea* clocks = no_clocks ? nullptr : DatumGetByteaPCopy(held_clocks);
    const bool has_space = !is_null;
    const std::string_view space =
        has_space ? pg::text_view(datumCopy(space_id, false, -1)) : std::string_view();
    Held held{};
    held.is_whole = clocks != nullptr &&
                    read_state(held.state, record, clocks, work.generation, has_space, space);
    if (!held.is_whole)
        held.state = state_without_clocks(record, has_space, space);
    if (clocks != nullptr)
        pfree(clocks);
    return held;
}

// The state of the tombstone in the slot.
RecordState read_tombstone(Work& work) {
    bool is_null = false;
    const Datum deleted_at =
        slot_getattr(work.store.tombstones.slot, own_tables().tombstones.deleted_at, &is_null);
    return deleted_state(saturating_instant(DatumGetTimestampTz(deleted_at)));
}

int64_t next_version(Work& work) {
    bool is_null = false;
    const Datum held = slot_getattr(work.snapshots.slot, work.columns.version, &is_null);
    return is_null ? GetCurrentTimestamp() : DatumGetInt64(held) + 1;
}

Datum space_of(const RecordState& state) {
    return state.has_space ? pg::text_datum(state.space) : Datum{0};
}

// `shown` is shown_state(state), here and below.
pg::RowValues snapshot_row(const Work& work, const RecordState& state, const RecordState& shown,
                           int64_t version) {
    const SnapshotTable& columns = work.columns;
    pg::RowValues row = pg::row_values(work.snapshots.table);
    give(row, columns.space_id, space_of(state), state.has_space);
    give(row, columns.record,
         PointerGetDatum(record_of(shown, pg::text_view(work.name.key.record_id))));
    give(row, columns.clocks, PointerGetDatum(clocks_of(state, work.generation)));
    give(row, columns.version, Int64GetDatum(version));
    give(row, columns.last_applied_at,
         TimestampTzGetDatum(timestamptz_of(state.row_clock.row_time)));
    const TimestampTz now = GetCurrentTimestamp();
    give(row, columns.updated_at, TimestampTzGetDatum(now));
    if (columns.problems != InvalidAttrNumber) {
        Datum problems = 0;
        const bool any = problems_of(shown, pg::instant_from_timestamptz(now), &problems);
        give(row, columns.problems, problems, any);
    }
    return row;
}

void insert_snapshot(Work& work, const RecordState& state, const RecordState& shown) {
    // Starts with the clock, so that a restored record never repeats a version.
    pg::RowValues row = snapshot_row(work, state, shown, GetCurrentTimestamp());
    give(row, work.columns.user_id, work.name.key.user_id);
    give(row, work.columns.record_id, work.name.key.record_id);
    pg::insert_row(work.snapshots, row);
}

// Whether the record was an agent, and not a fragment that an edit of another's agent has made.
bool is_whole_agent(const RecordState& state) {
    const pg::JsonbValueRef* name = find_value(state, "name");
    return name != nullptr && pg::string_of(*name).has_value();
}

void insert_tombstone(Work& work, const RecordState& state) {
    const TombstoneTable& columns = own_tables().tombstones;
    pg::RowValues row = pg::row_values(work.store.tombstones.table);
    give(row, columns.user_id, work.name.key.user_id);
    give(row, columns.table_name, work.name.key.table_name);
    give(row, columns.record_id, work.name.key.record_id);
    give(row, columns.deleted_at, TimestampTzGetDatum(timestamptz_of(deletion_time(state))));
    if (columns.space_id != InvalidAttrNumber)
        give(row, columns.space_id, space_of(state), state.has_space);
    if (columns.was_whole != InvalidAttrNumber)
        give(row, columns.was_whole, BoolGetDatum(is_whole_agent(state)));
    pg::insert_row(work.store.tombstones, row);
}

// What `state` adds to the tombstone in the slot: version 0.1.0 stored only the time.
struct TombstoneNews {
    bool is_later = false;
    bool space = false;
    bool was_whole = false;

    bool any() const { return is_later || space || was_whole; }
};

TombstoneNews news_for_tombstone(Work& work, const RecordState& state) {
    const TombstoneTable& columns = own_tables().tombstones;
    TupleTableSlot* slot = work.store.tombstones.slot;
    TombstoneNews news;
    bool is_null = false;
    const Datum deleted_at = slot_getattr(slot, columns.deleted_at, &is_null);
    news.is_later =
        is_null || timestamptz_of(deletion_time(state)) > DatumGetTimestampTz(deleted_at);
    if (columns.space_id != InvalidAttrNumber) {
        const Datum space = slot_getattr(slot, columns.space_id, &is_null);
        if (is_null)
            news.space = state.has_space;
        else if (news.is_later)
            news.space = !state.has_space || pg::text_view(space) != state.space;
    }
    if (columns.was_whole != InvalidAttrNumber && is_whole_agent(state)) {
        const Datum was_whole = slot_getattr(slot, columns.was_whole, &is_null);
        news.was_whole = is_null || !DatumGetBool(was_whole);
    }
    return news;
}

// Updates the locked tombstone in the slot to the latest deletion: only later writes restore the
// record, and the log may have lost the rows of the deletion.
Kept keep_tombstone(Work& work, const RecordState& state) {
    const TombstoneNews news = news_for_tombstone(work, state);
    if (!news.any())
        return Kept::Unchanged;
    const TombstoneTable& columns = own_tables().tombstones;
    pg::RowValues row = pg::row_values(work.store.tombstones.table);
    if (news.is_later)
        give(row, columns.deleted_at, TimestampTzGetDatum(timestamptz_of(deletion_time(state))));
    if (news.space)
        give(row, columns.space_id, space_of(state), state.has_space);
    if (news.was_whole)
        give(row, columns.was_whole, BoolGetDatum(true));
    pg::update_row(work.store.tombstones, row);
    return Kept::Unchanged;
}

// Locks the schedule row if there is one; false if somebody else has locked it.
bool prepare_schedule_of(Work& work, const RecordState* state, bool content_changed,
                         ScheduleChange& change) {
    if (work.name.kind != RecordKind::Mission)
        return true;
    return open_once(work.store, work.store.schedule, own_tables().schedule.key) &&
           prepare_schedule(work.store.schedule, work.name.key.user_id, work.name.key.record_id,
                            state, content_changed, change);
}

void write_schedule_of(Work& work, const ScheduleChange& change) {
    if (work.name.kind == RecordKind::Mission)
        write_schedule(work.store.schedule, work.name.key.user_id, work.name.key.record_id, change);
}

void mark_if_watching(const Work& work, const RecordState* shown) {
    if (work.name.kind == RecordKind::Mission)
        mark_watching_mission(work.name.key, shown);
}

// Replaces the snapshot in the slot by `state`: live, deleted or missing. If its content changes,
// it need not be locked, since the update fails if somebody else has written it.
Kept replace_snapshot(Work& work, const RecordState& state, bool content_changed,
                      bool iterations_lost) {
    const bool live = state.exists && !is_deleted(state);
    if (live && !fits_into_jsonb(state))
        return Kept::TooLarge;
    // If somebody has locked it, find that out before locking the schedule.
    if ((!live || pg::may_be_locked(work.snapshots)) && !pg::lock_seen_row(work.snapshots))
        return Kept::Busy;
    const RecordState shown = live ? shown_state(state) : RecordState{};
    ScheduleChange schedule;
    schedule.iterations_lost = iterations_lost;
    if (!prepare_schedule_of(work, live ? &shown : nullptr, content_changed, schedule))
        return Kept::Busy;
    if (live && !content_changed && schedule.action == ScheduleChange::Action::None)
        return Kept::Unchanged;
    if (live) {
        if (content_changed) {
            pg::RowValues row = snapshot_row(work, state, shown, next_version(work));
            if (!pg::try_update_row(work.snapshots, row))
                return Kept::Busy;
        }
    } else {
        if (!open_once(work.store, work.store.tombstones, own_tables().tombstones.key) ||
            !pg::try_lock_name(work.name_hash))
            return Kept::Busy;
        if (state.exists)
            insert_tombstone(work, state);
        pg::delete_row(work.snapshots);
        pg::unlock_name(work.name_hash);
    }
    write_schedule_of(work, schedule);
    mark_if_watching(work, live ? &shown : nullptr);
    pg::wake_worker_at_commit();
    return Kept::Changed;
}

// Reads the rows of the record in all leaves that may have them.
Replayed read_log(Work& work, ScanLimit limit, Fold& fold) {
    SnapshotStore& store = work.store;
    begin_replay(fold, limit);
    const bool only_leaf = is_in_leaf(store, work.tree) || limit == ScanLimit::OnlyOwn;
    if (only_leaf) {
        fold.place = store.place;
        return replay_record(store.leaf, *store.shape, work.name.key, SnapshotSelf, limit, fold);
    }
    Replayed replayed = Replayed::Done;
    List* leaves = OidIsValid(work.tree) ? leaves_of(work.tree) : NIL;
    for (int i = 0; i < list_length(leaves) && replayed == Replayed::Done; i++) {
        Relation leaf = nullptr;
        switch (open_leaf(list_nth_oid(leaves, i), false, &leaf)) {
            case LeafOpened::Busy:
                return Replayed::Busy;
            case LeafOpened::Gone:
                continue;
            case LeafOpened::Opened:
                break;
        }
        List* locked = NIL;
        if (!try_lock_indexes(leaf, &locked)) {
            close_leaf(leaf);
            return Replayed::Busy;
        }
        fold.place = place_of(work.tree, RelationGetRelid(leaf));
        replayed = replay_record(leaf, shape_of(leaf), work.name.key, SnapshotSelf, limit, fold);
        unlock_indexes(locked);
        close_leaf(leaf);
    }
    return replayed;
}

// Merges all present rows of the record into the state. If it gives up, nothing was merged.
Replayed add_log(Work& work, const ChangeRow* row, ScanLimit limit, RecordState& state) {
    // SnapshotSelf: all rows committed by now, and our own. The log is append-only, so no row can
    // move during the scan; and it causes no serialization failures.
    Fold fold;
    begin_fold(fold);
    fold.known = row;
    fold.state = state;
    const Replayed replayed = read_log(work, limit, fold);
    if (replayed == Replayed::Done)
        state = fold.state;
    work.store.has_all_own_rows = replayed == Replayed::Done;
    return replayed;
}

Kept given_up(Replayed replayed) {
    if (replayed == Replayed::Busy)
        return Kept::Busy;
    return replayed == Replayed::TooLong ? Kept::TooLong : Kept::NoIndex;
}

// Merges the rows of our own transaction that are in the leaf; the state already includes the rest
// of the log. With too many other rows it merges only some of them, and each is merged in its turn
// anyway.
void add_own_rows(Work& work, const ChangeRow* row, RecordState& state) {
    Fold fold;
    begin_fold(fold);
    fold.known = row;
    fold.rule = PlaceLost::AskLog;
    fold.state = copy_of(state);
    fold.others_to_pass_over = work.store.others_to_pass_over;
    const Replayed replayed = read_log(work, ScanLimit::OnlyOwn, fold);
    if (replayed == Replayed::NoIndex || fold.is_spoilt)
        return;
    state = fold.state;
    work.store.has_all_own_rows = replayed == Replayed::Done;
}

// A device that has not seen a plan, or what another device has made of it, overwrites it with its
// next edit of the mission, and the worker puts it back (docs/contract/data.md, Lost plans). A
// record that is made from the log may have lost one before, if it has changed recently.
constexpr core::Instant kLossesAreYoung = 7 * 24 * core::kMicrosPerHour;

bool may_have_lost_iterations(const RecordState& state) {
    return pg::settings::restore_iterations() && state.row_clock.rank == core::WriteRank::Change &&
           state.row_clock.row_time >
               pg::instant_from_timestamptz(GetCurrentTimestamp()) - kLossesAreYoung;
}

std::optional<pg::JsonbValueRef> iterations_of(const Work& work, const RecordState& state) {
    if (work.name.kind != RecordKind::Mission || !pg::settings::restore_iterations())
        return std::nullopt;
    const pg::JsonbValueRef* value = find_value(state, "iterations");
    return value == nullptr ? std::nullopt : std::optional(*value);
}

// Those that a row writes. A row that arrives late loses against what was written meanwhile by
// somebody who had not seen it.
std::optional<pg::JsonbValueRef> iterations_of_row(const ChangeRow* row) {
    if (row == nullptr || row->op == core::RowOp::Delete)
        return std::nullopt;
    const pg::JsonbFields fields = pg::read_object(row->data);
    const pg::JsonbValueRef* value = pg::find_field(fields, "iterations");
    return value == nullptr ? std::nullopt : std::optional(*value);
}

Kept keep_existing_snapshot(Work& work, const ChangeRow* row, ScanLimit limit, Basis basis) {
    Held held = read_snapshot(work);
    // apply_row() changes fields in place.
    const std::optional<pg::JsonbValueRef> iterations = iterations_of(work, held.state);
    const std::optional<pg::JsonbValueRef> written =
        iterations ? iterations_of_row(row) : std::nullopt;
    const core::FieldClock row_clock = held.state.row_clock;
    auto lost = [&](const RecordState& state) {
        const pg::JsonbValueRef* now = find_value(state, "iterations");
        if (iterations && has_less_of_server_iterations(now, *iterations))
            return true;
        if (now == nullptr)
            return false;
        // Of a repair from the log it is not known what its rows have written.
        return row != nullptr ? written && has_less_of_server_iterations(now, *written)
                              : iterations && state.row_clock.row_time != row_clock.row_time &&
                                    may_have_lost_iterations(state);
    };
    if (row != nullptr && held.is_whole) {
        RecordState state = held.state;
        switch (apply_row(state, *row, PlaceLost::AskLog)) {
            case Applied::Nothing:
                // A rebuild from the log before our commit would lack our row.
                if (!pg::lock_seen_row(work.snapshots))
                    return Kept::Busy;
                return lost(state) ? replace_snapshot(work, state, false, true) : Kept::Unchanged;
            case Applied::Changed:
                if (work.store.others_to_pass_over > 0)
                    add_own_rows(work, row, state);
                return replace_snapshot(work, state, true,
                                        lost(state) || (work.store.has_all_own_rows && iterations &&
                                                        may_have_lost_iterations(state)));
            case Applied::AskLog:
                // apply_row() has changed fields in place, which both states share.
                held = read_snapshot(work);
                break;
        }
    }
    // The log may leave the snapshot unchanged and still change the schedule.
    if (!pg::lock_seen_row(work.snapshots))
        return Kept::Busy;
    RecordState state = basis == Basis::Held ? copy_of(held.state) : RecordState{};
    if (const Replayed replayed = add_log(work, row, limit, state); replayed != Replayed::Done)
        return given_up(replayed);
    return replace_snapshot(work, state, !held.is_up_to_date() || !same_content(held.state, state),
                            lost(state));
}

// With the name locked and no snapshot: creates the snapshot, or updates the tombstone.
Kept place_record(Work& work, bool has_tombstone, const RecordState& state) {
    const bool live = state.exists && !is_deleted(state);
    if (!live) {
        if (has_tombstone && state.exists)
            return keep_tombstone(work, state);
        if (has_tombstone == state.exists)
            return Kept::Unchanged;
        if (state.exists)
            insert_tombstone(work, state);
        else
            pg::delete_row(work.store.tombstones);
        return Kept::Changed;
    }
    if (!fits_into_jsonb(state))
        return Kept::TooLarge;
    const RecordState shown = shown_state(state);
    ScheduleChange schedule;
    schedule.iterations_lost = may_have_lost_iterations(state);
    if (!prepare_schedule_of(work, &shown, true, schedule))
        return Kept::Busy;
    insert_snapshot(work, state, shown);
    if (has_tombstone)
        pg::delete_row(work.store.tombstones);
    write_schedule_of(work, schedule);
    mark_if_watching(work, &shown);
    pg::wake_worker_at_commit();
    return Kept::Created;
}

// `folded` is the state for place_record(), or nullptr to replay the record.
Kept keep_without_snapshot(Work& work, const ChangeRow* row, const RecordState* folded,
                           ScanLimit limit, Basis basis) {
    if (!open_once(work.store, work.store.tombstones, own_tables().tombstones.key))
        return Kept::Busy;
    // Look again, now that nobody can move the record.
    if (pg::lock_row_for_sure(work.snapshots, work.snapshot_key) != pg::Lookup::Missing)
        return Kept::Busy;
    const pg::Lookup tombstone = pg::lock_row_for_sure(work.store.tombstones, work.tombstone_key);
    if (tombstone == pg::Lookup::Busy)
        return Kept::Busy;
    const bool has_tombstone = tombstone == pg::Lookup::Found;
    if (has_tombstone && row != nullptr) {
        if (row->op != core::RowOp::Delete && !may_revive(*row))
            return Kept::Unchanged;
        RecordState state = read_tombstone(work);
        if (apply_row(state, *row, PlaceLost::AskLog) != Applied::AskLog && is_deleted(state))
            return keep_tombstone(work, state);
    }
    if (folded != nullptr && !has_tombstone)
        return place_record(work, false, *folded);
    RecordState state =
        has_tombstone && basis == Basis::Held ? read_tombstone(work) : RecordState{};
    if (const Replayed replayed = add_log(work, row, limit, state); replayed != Replayed::Done)
        return given_up(replayed);
    return place_record(work, has_tombstone, state);
}

Kept keep_with_name_locked(Work& work, const ChangeRow* row, const RecordState* folded,
                           ScanLimit limit, Basis basis) {
    if (!pg::try_lock_name(work.name_hash))
        return Kept::Busy;
    const Kept kept = keep_without_snapshot(work, row, folded, limit, basis);
    pg::unlock_name(work.name_hash);
    return kept;
}

}  // namespace

bool kind_of_table(std::string_view table_name, RecordKind* kind) {
    if (table_name == "aiMissions")
        *kind = RecordKind::Mission;
    else if (table_name == "agents")
        *kind = RecordKind::Agent;
    else
        return false;
    return true;
}

bool ids_fit(const RecordKey& key) {
    return pg::text_view(key.user_id).size() + pg::text_view(key.record_id).size() <= kMaxIdBytes;
}

uint64_t name_hash(const RecordKey& key) {
    const std::string_view parts[] = {pg::text_view(key.user_id), pg::text_view(key.table_name),
                                      pg::text_view(key.record_id)};
    uint64_t hash = 0;
    for (const std::string_view part : parts)
        hash = hash_bytes_extended(reinterpret_cast<const unsigned char*>(part.data()),
                                   static_cast<int>(part.size()), hash);
    return hash;
}

void open_store(SnapshotStore& store, Relation leaf) {
    if (const char* problem = leaf_problem(leaf))
        ereport(ERROR, (errcode(ERRCODE_WRONG_OBJECT_TYPE),
                        errmsg("table \"%s\" cannot be read as the log: %s",
                               RelationGetRelationName(leaf), problem)));
    store = SnapshotStore{};
    store.memory = CurrentMemoryContext;
    store.leaf = leaf;
    store.shape = &shape_of(leaf);
    store.tree = store.shape->tree;
    store.place = place_of(store.tree, RelationGetRelid(leaf));
}

void open_store(SnapshotStore& store, Oid log) {
    store = SnapshotStore{};
    store.memory = CurrentMemoryContext;
    store.log = log;
}

void close_store(SnapshotStore& store) {
    pg::close_keyed_table(store.schedule);
    pg::close_keyed_table(store.tombstones);
    pg::close_keyed_table(store.agents);
    pg::close_keyed_table(store.missions);
}

void count_kept(Kept kept) {
    if (kept == Kept::Created)
        pg::metrics::count_at_commit(core::Metric::SnapshotsNew);
    else if (kept == Kept::Changed)
        pg::metrics::count_at_commit(core::Metric::SnapshotsUpdated);
}

Kept keep_record(SnapshotStore& store, const RecordName& name, const ChangeRow* row,
                 ScanLimit limit, Basis basis) {
    if (const Erasure erasure = erasure_of(name.key.user_id); erasure != Erasure::None)
        return erasure == Erasure::Erased ? Kept::Unchanged : Kept::Busy;
    // Makes rows that our own command wrote visible and changeable.
    CommandCounterIncrement();
    Work work = begin_work(store, name);
    if (!open_once(work.store, work.snapshots, work.columns.key))
        return Kept::Busy;
    switch (pg::peek_row(work.snapshots, work.snapshot_key)) {
        case pg::Lookup::Busy:
            return Kept::Busy;
        case pg::Lookup::Found:
            return keep_existing_snapshot(work, row, limit, basis);
        case pg::Lookup::Missing:
            break;
    }
    return keep_with_name_locked(work, row, nullptr, limit, basis);
}

Kept keep_folded_record(SnapshotStore& store, const RecordName& name, const RecordState& folded,
                        Basis basis, FoldedRows rows) {
    if (const Erasure erasure = erasure_of(name.key.user_id); erasure != Erasure::None)
        return erasure == Erasure::Erased ? Kept::Unchanged : Kept::Busy;
    Work work = begin_work(store, name);
    if (!open_once(work.store, work.snapshots, work.columns.key))
        return Kept::Busy;
    auto result_of = [&](const RecordState& held) {
        RecordState state = basis == Basis::Held ? copy_of(held) : RecordState{};
        add_state(state, folded);
        return state;
    };
    switch (pg::peek_row(work.snapshots, work.snapshot_key)) {
        case pg::Lookup::Busy:
            return Kept::Busy;
        case pg::Lookup::Missing:
            // A record that was restored since would no longer have a tombstone.
            if (open_once(work.store, work.store.tombstones, own_tables().tombstones.key) &&
                pg::peek_row(work.store.tombstones, work.tombstone_key) == pg::Lookup::Found) {
                const RecordState held = read_tombstone(work);
                const RecordState state = result_of(held);
                if (is_deleted(state) && !news_for_tombstone(work, state).any())
                    return Kept::Unchanged;
            }
            return keep_with_name_locked(
                work, nullptr, folded.exists && rows == FoldedRows::All ? &folded : nullptr,
                ScanLimit::None, basis);
        case pg::Lookup::Found:
            break;
    }
    auto nothing_to_do = [&] {
        const Held held = read_snapshot(work);
        if (!held.is_up_to_date() || !same_content(held.state, result_of(held.state)))
            return false;
        const RecordState shown = shown_state(held.state);
        ScheduleChange schedule;
        return prepare_schedule_of(work, &shown, false, schedule) &&
               schedule.action == ScheduleChange::Action::None;
    };
    // Memory of the comparison is freed before the record is read for the change.
    MemoryContext scratch =
        AllocSetContextCreate(CurrentMemoryContext, "mana_ai look", ALLOCSET_DEFAULT_SIZES);
    MemoryContext outer = MemoryContextSwitchTo(scratch);
    const bool unchanged = nothing_to_do();
    MemoryContextSwitchTo(outer);
    MemoryContextDelete(scratch);
    if (unchanged)
        return Kept::Unchanged;
    return keep_record(store, name, nullptr, ScanLimit::None, basis);
}

}  // namespace mana_ai
