#include "mana_ai/extension/sync/mission_schedule.hpp"

#include "mana_ai/extension/sync/own_tables.hpp"
#include "mana_ai/extension/sync/record_problems.hpp"
#include "mana_ai/extension/sync/snapshots.hpp"
#include "mana_ai/pg/text.hpp"
#include "mana_ai/pg/time.hpp"

extern "C" {
#include "mb/pg_wchar.h"
}

namespace mana_ai {

namespace {

// The column is indexed. A cut id keeps more bytes than any agent's id may have, so it still names
// a missing agent.
size_t indexable_size(std::string_view id) {
    constexpr size_t kLimit = kMaxIdBytes + MAX_MULTIBYTE_CHAR_LEN;
    if (id.size() <= kLimit)
        return id.size();
    return pg_mbcliplen(id.data(), static_cast<int>(id.size()), kLimit);
}

void read_wishes(const RecordState& state, ScheduleChange& change) {
    const pg::JsonbValueRef* agent = find_value(state, "agentId");
    if (agent != nullptr) {
        if (const auto id = pg::string_of(*agent)) {
            change.has_agent = true;
            change.agent_id = id->substr(0, indexable_size(*id));
        }
    }
    if (core::is_fragment(field_value(find_value(state, "title")),
                          field_value(find_value(state, "objective"))))
        return;
    const pg::JsonbValueRef* activity = find_value(state, "state");
    const pg::JsonbValueRef* next_run = find_value(state, "nextRunAt");
    change.is_active = activity != nullptr && pg::string_of(*activity) == "active";
    if (!change.is_active || next_run == nullptr)
        return;
    if (const auto text = pg::string_of(*next_run)) {
        if (const auto instant = core::parse_instant(*text)) {
            // Every year of four digits fits into a timestamptz.
            change.has_next_run = true;
            change.next_run = pg::timestamptz_from_instant(*instant);
        }
    }
}

bool same_time(TupleTableSlot* slot, AttrNumber column, bool wanted, TimestampTz time) {
    bool is_null = false;
    const Datum value = slot_getattr(slot, column, &is_null);
    return is_null ? !wanted : wanted && DatumGetTimestampTz(value) == time;
}

// `slot`: the present row, if there is one.
void set_due(TupleTableSlot* slot, ScheduleChange& change) {
    const AttrNumber column = own_tables().schedule.woken_at;
    change.is_due = change.has_next_run;
    change.due_at = change.next_run;
    bool is_null = true;
    const Datum woken = slot == nullptr || column == InvalidAttrNumber
                            ? Datum{0}
                            : slot_getattr(slot, column, &is_null);
    if (is_null || !change.is_active)
        return;
    const TimestampTz woken_at = DatumGetTimestampTz(woken);
    if (!change.is_due || woken_at < change.due_at)
        change.due_at = woken_at;
    change.is_due = true;
}

// Whether the row in the slot already equals the result of the change. A mission that has not
// changed continues to wait.
bool is_up_to_date(TupleTableSlot* slot, bool mission_changed, ScheduleChange& change) {
    const ScheduleTable& columns = own_tables().schedule;
    set_due(slot, change);
    bool is_null = false;
    slot_getattr(slot, columns.lease_owner, &is_null);
    change.reset_wait = is_null;
    change.check_iterations = false;
    if (change.iterations_lost) {
        slot_getattr(slot, columns.check_iterations_at, &is_null);
        change.check_iterations = is_null;
    }
    if (change.check_iterations) {
        change.reset_wait &= mission_changed;
        return false;
    }
    const Datum agent = slot_getattr(slot, columns.agent_id, &is_null);
    if (is_null == change.has_agent || (!is_null && pg::text_view(agent) != change.agent_id))
        return false;
    if (!same_time(slot, columns.due_at, change.is_due, change.due_at))
        return false;
    if (!mission_changed && !same_time(slot, columns.not_before, false, 0))
        return true;
    return !change.reset_wait || (same_time(slot, columns.not_before, false, 0) &&
                                  same_time(slot, columns.wake_at, change.is_due, change.due_at));
}

}  // namespace

bool prepare_schedule(pg::KeyedTable& schedule, Datum user_id, Datum mission_id,
                      const RecordState* state, bool mission_changed, ScheduleChange& change) {
    using Action = ScheduleChange::Action;
    const Datum key[] = {user_id, mission_id};
    change.iterations_lost &= own_tables().schedule.check_iterations_at != InvalidAttrNumber;
    if (state != nullptr)
        read_wishes(*state, change);
    const pg::Lookup seen = pg::peek_row(schedule, key);
    if (seen == pg::Lookup::Busy)
        return false;
    if (seen == pg::Lookup::Found && state != nullptr &&
        is_up_to_date(schedule.slot, mission_changed, change))
        return true;
    const pg::Lookup locked = pg::lock_row_for_sure(schedule, key);
    if (locked == pg::Lookup::Busy)
        return false;
    if (locked == pg::Lookup::Missing) {
        change.check_iterations = change.iterations_lost;
        set_due(nullptr, change);
        change.action = state != nullptr ? Action::Insert : Action::None;
        return true;
    }
    change.action = state != nullptr ? Action::Update : Action::Delete;
    if (state != nullptr)
        is_up_to_date(schedule.slot, mission_changed, change);  // the lease may have changed since
    return true;
}

void write_schedule(pg::KeyedTable& schedule, Datum user_id, Datum mission_id,
                    const ScheduleChange& change) {
    using Action = ScheduleChange::Action;
    if (change.action == Action::None)
        return;
    if (change.action == Action::Delete) {
        pg::delete_row(schedule);
        return;
    }
    const ScheduleTable& columns = own_tables().schedule;
    pg::RowValues row = pg::row_values(schedule.table);
    const Datum agent = change.has_agent ? pg::text_datum(change.agent_id) : Datum{0};
    give(row, columns.agent_id, agent, change.has_agent);
    give(row, columns.due_at, TimestampTzGetDatum(change.due_at), change.is_due);
    if (change.action == Action::Insert || change.reset_wait) {
        give(row, columns.wake_at, TimestampTzGetDatum(change.due_at), change.is_due);
        give(row, columns.not_before, 0, false);
    }
    if (change.check_iterations)
        give(row, columns.check_iterations_at, TimestampTzGetDatum(GetCurrentTimestamp()));
    if (change.action == Action::Update) {
        pg::update_row(schedule, row);
        return;
    }
    give(row, columns.user_id, user_id);
    give(row, columns.mission_id, mission_id);
    give(row, columns.attempts, Int32GetDatum(0));
    give(row, columns.research_spent, BoolGetDatum(false));
    pg::insert_row(schedule, row);
}

}  // namespace mana_ai
