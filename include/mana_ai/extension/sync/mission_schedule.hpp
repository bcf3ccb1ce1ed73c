// The schedule row of a mission: the time of its next check (docs/contract/data.md, Mission
// record).
//
// Two steps, so that nothing is written yet if the row turns out to be locked by somebody else. The
// functions may ereport(ERROR): call them inside pg::guarded().
#pragma once

#include "mana_ai/extension/sync/lww_record.hpp"
#include "mana_ai/pg/keyed_table.hpp"

namespace mana_ai {

struct ScheduleChange {
    enum class Action : uint8_t { None, Insert, Update, Delete } action = Action::None;
    bool is_active = false;
    bool has_next_run = false;
    TimestampTz next_run = 0;  // of the record
    bool is_due = false;       // due_at is set
    TimestampTz due_at = 0;    // next_run, or earlier if a changed input has woken the mission
    bool has_agent = false;
    std::string_view agent_id;
    bool iterations_lost = false;   // set by the caller: a plan may have been removed
    bool check_iterations = false;  // schedule a check for that
    bool reset_wait = false;        // no lease: not_before is cleared, wake_at becomes due_at
};

// Determines the row for the record's state, and locks the present row if it is to change. False:
// somebody else has locked it. `state` is nullptr for a mission that is deleted or does not exist.
bool prepare_schedule(pg::KeyedTable& schedule, Datum user_id, Datum mission_id,
                      const RecordState* state, bool mission_changed, ScheduleChange& change);

void write_schedule(pg::KeyedTable& schedule, Datum user_id, Datum mission_id,
                    const ScheduleChange& change);

}  // namespace mana_ai
