// Folds sorted rows of the log (sorted_log.hpp) into snapshots, one record after the other.
//
// All methods may ereport(ERROR): call them inside pg::guarded().
#pragma once

#include <cstdint>
#include <type_traits>

#include "mana_ai/extension/sync/log_leaves.hpp"
#include "mana_ai/extension/sync/snapshots.hpp"
#include "mana_ai/extension/sync/sorted_log.hpp"

namespace mana_ai {

struct FoldCounts {
    int64_t new_snapshots = 0;
    int64_t updated_snapshots = 0;
    int64_t rows_applied = 0;
};

struct FoldRules {
    Basis basis = Basis::Held;
    FoldedRows rows = FoldedRows::All;
    // How long it waits in total for records that others work on, which are then marked.
    int patience_ms = 2000;
    bool only_mark = false;  // marks the records, and reads nothing else of the rows
};

class HistoryFold {
 public:
    HistoryFold(Oid log, LeavesInUse& in_use, FoldRules rules, FoldCounts& counts)
        : log_(log), in_use_(in_use), rules_(rules), counts_(counts) {}

    // All rows, which have been sorted.
    void add_all(SortedLog& sorted);

 private:
    void begin();
    void add(const SortedRow& row);
    void end();
    bool is_of_group(const SortedRow& row);
    void store_group();
    void keep_group();

    Oid log_;
    LeavesInUse& in_use_;
    FoldRules rules_;
    FoldCounts& counts_;
    SnapshotStore store_{};
    MemoryContext record_context_ = nullptr;
    MemoryContext key_context_ = nullptr;
    MemoryContext row_context_ = nullptr;
    Datum mission_table_ = 0;
    Datum agent_table_ = 0;
    Fold fold_{};
    RecordName name_{};
    bool in_group_ = false;
    bool tree_is_clear_ = true;
    int waited_ms_ = 0;
};

static_assert(std::is_trivially_destructible_v<HistoryFold>);

}  // namespace mana_ai
