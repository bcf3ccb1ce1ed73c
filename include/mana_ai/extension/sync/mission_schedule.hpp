// The schedule row of a mission: when it is to be looked at (docs/contract/data.md, Mission
// record).
//
// Two steps, so that nothing was written yet when the row turns out to be held by somebody else.
// The functions may ereport(ERROR): call them inside pg::guarded().
#pragma once

#include "mana_ai/extension/sync/lww_record.hpp"
#include "mana_ai/pg/keyed_table.hpp"

namespace mana_ai {

struct ScheduleChange {
    enum class Action : uint8_t { None, Insert, Update, Delete } action = Action::None;
    bool is_due = false;  // due_at is set
    TimestampTz due_at = 0;
    bool has_agent = false;
    std::string_view agent_id;
    bool iterations_lost = false;   // set by the caller: a plan may have been taken away
    bool check_iterations = false;  // it is to be noted
    bool reset_wait = false;        // nobody holds a lease: not_before goes, wake_at follows due_at
};

// Finds out what the record's state asks for, and locks the row if it is to change. False: the row
// is held by somebody else. `state` is nullptr for a mission that is deleted or gone.
bool prepare_schedule(pg::KeyedTable& schedule, Datum user_id, Datum mission_id,
                      const RecordState* state, bool mission_changed, ScheduleChange& change);

void write_schedule(pg::KeyedTable& schedule, Datum user_id, Datum mission_id,
                    const ScheduleChange& change);

}  // namespace mana_ai
