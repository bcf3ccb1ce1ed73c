// Reading one record of any app through SQL, and so with the current role's privileges and under
// its policies, unlike the trigger's own replay. Shared by mana_ai.replay() and the inputs of
// missions.
#pragma once

#include <string>

#include "mana_ai/core/record/lww.hpp"
#include "mana_ai/extension/sync/clock_vector.hpp"
#include "mana_ai/extension/sync/sync_table.hpp"

extern "C" {
#include "utils/jsonb.h"
}

namespace mana_ai {

// The query for a shape of the table, planned at its first use and kept for the process's lifetime.
struct RecordQuery {
    std::string sql;
    void* plan = nullptr;  // SPIPlanPtr
    Oid log = InvalidOid;  // if it is partitioned
};
RecordQuery& record_query(const SyncTable& table);

// Text values.
struct RecordAddress {
    Datum user_id;
    Datum app_id;
    Datum table_name;
    Datum record_id;
};

struct ReplayedRecord {
    Jsonb* record = nullptr;  // in the current memory context; nullptr: missing or deleted
    bool too_large = false;   // given up
    core::Instant newest_clock = core::kOlderThanEverything;  // of all its fields
    const char* clocks = nullptr;  // of the requested fields; in the current context
    uint32_t lost = 0;             // fields whose writes are missing; only with bounds
};

struct ReplayWish {
    int64_t max_size = 0;                 // bytes of a row or a record; 0: no limit
    const ReadFields* clocked = nullptr;  // the fields whose clocks are wanted
    const ClockBounds* bounds = nullptr;  // the record as it was then; nullptr: as it is now
};

// Folds the record's rows that the active MVCC snapshot and the policies allow, as they arrive, and
// gives up at rows above the limit. May ereport(ERROR): call it inside pg::guarded().
ReplayedRecord replay_by_query(RecordQuery& query, const RecordAddress& address,
                               const ReplayWish& wish = {});

}  // namespace mana_ai
