#include "mana_ai/extension/sync/history_fold.hpp"

#include <algorithm>

#include "mana_ai/extension/sync/dirty_records.hpp"
#include "mana_ai/extension/sync/erased_users.hpp"
#include "mana_ai/pg/failpoint.hpp"
#include "mana_ai/pg/record_lock.hpp"
#include "mana_ai/pg/script_notice.hpp"
#include "mana_ai/pg/text.hpp"

namespace mana_ai {

namespace {

constexpr int64_t kRowsPerNotice = 500'000;
constexpr int kMaxPauseMs = 64;  // between two attempts at a record that others work on

void note_progress(const FoldCounts& counts) {
    pg::notice_in_script(psprintf("mana_ai: %lld rows folded, %lld snapshots made",
                                  static_cast<long long>(counts.rows_applied),
                                  static_cast<long long>(counts.new_snapshots)));
}

}  // namespace

void HistoryFold::add_all(SortedLog& sorted) {
    begin();
    SortedRow row;
    while (sorted.next(row)) {
        CHECK_FOR_INTERRUPTS();
        add(row);
    }
    end();
}

void HistoryFold::begin() {
    open_store(store_, log_);
    record_context_ =
        AllocSetContextCreate(CurrentMemoryContext, "mana_ai fold", ALLOCSET_DEFAULT_SIZES);
    key_context_ =
        AllocSetContextCreate(CurrentMemoryContext, "mana_ai fold key", ALLOCSET_SMALL_SIZES);
    row_context_ =
        AllocSetContextCreate(CurrentMemoryContext, "mana_ai fold row", ALLOCSET_SMALL_SIZES);
    begin_fold(fold_);
    mission_table_ = CStringGetTextDatum("aiMissions");
    agent_table_ = CStringGetTextDatum("agents");
    in_group_ = false;
}

void HistoryFold::add(const SortedRow& row) {
    if (!in_group_ || !is_of_group(row)) {
        store_group();
        MemoryContextReset(key_context_);
        MemoryContext outer = MemoryContextSwitchTo(key_context_);
        name_.kind = row.kind;
        name_.key = {PointerGetDatum(DatumGetTextPCopy(row.user_id)),
                     row.kind == RecordKind::Mission ? mission_table_ : agent_table_,
                     PointerGetDatum(DatumGetTextPCopy(row.record_id))};
        MemoryContextSwitchTo(outer);
        in_group_ = true;
        tree_is_clear_ = true;
        store_.tree = InvalidOid;  // that of a record without rows is looked up
    }
    if (!row.is_row)
        return;
    // The rows of a partition that is being detached seem to be of a tree of their own.
    tree_is_clear_ &= !OidIsValid(store_.tree) || store_.tree == row.tree;
    store_.tree = row.tree;
    fold_row(fold_, row.values);
    if (++counts_.rows_applied % kRowsPerNotice == 0)
        note_progress(counts_);
}

void HistoryFold::end() {
    store_group();
    end_fold(fold_);
    MemoryContextDelete(row_context_);
    MemoryContextDelete(key_context_);
    MemoryContextDelete(record_context_);
    close_store(store_);
}

bool HistoryFold::is_of_group(const SortedRow& row) {
    MemoryContextReset(row_context_);
    MemoryContext outer = MemoryContextSwitchTo(row_context_);
    const bool is_same = row.kind == name_.kind &&
                         pg::same_text(row.record_id, name_.key.record_id) &&
                         pg::same_text(row.user_id, name_.key.user_id);
    MemoryContextSwitchTo(outer);
    return is_same;
}

void HistoryFold::keep_group() {
    Kept kept = keep_folded_record(store_, name_, fold_.state, rules_.basis, rules_.rows);
    for (int pause_ms = 1; kept == Kept::Busy && waited_ms_ < rules_.patience_ms;
         pause_ms = std::min(pause_ms * 2, kMaxPauseMs)) {
        pg::sleep_and_check_interrupts(pause_ms);
        waited_ms_ += pause_ms;
        look_for_waiters(in_use_);
        kept = keep_record(store_, name_, nullptr, ScanLimit::None, rules_.basis);
    }
    if (kept == Kept::Created)
        counts_.new_snapshots++;
    else if (kept == Kept::Changed && !is_deleted(fold_.state))
        counts_.updated_snapshots++;
    else if (kept == Kept::Busy)
        mark_dirty(name_.key, "busy");
    else if (kept == Kept::TooLarge)
        mark_dirty(name_.key, "record too large");
}

void HistoryFold::store_group() {
    if (!in_group_)
        return;
    MANA_AI_FAILPOINT("fold.record");
    look_for_waiters(in_use_);
    if (!tree_is_clear_)
        store_.tree = InvalidOid;
    MemoryContext outer = MemoryContextSwitchTo(record_context_);
    if (!ids_fit(name_.key))
        mark_dirty(name_.key, "ids too long");
    else if (!rules_.only_mark)
        keep_group();
    else if (erasure_of(name_.key.user_id) != Erasure::Erased)
        mark_dirty(name_.key, "error during the fold");
    MemoryContextSwitchTo(outer);
    MemoryContextReset(record_context_);
    restart_fold(fold_);
    in_group_ = false;
}

}  // namespace mana_ai
