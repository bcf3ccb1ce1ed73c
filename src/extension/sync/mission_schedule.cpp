#include "mana_ai/extension/sync/mission_schedule.hpp"

#include "mana_ai/extension/sync/own_tables.hpp"
#include "mana_ai/extension/sync/snapshots.hpp"
#include "mana_ai/pg/time.hpp"

extern "C" {
#include "mb/pg_wchar.h"
}

namespace mana_ai {

namespace {

std::string_view view_of(Datum value) {
    const text* packed = DatumGetTextPP(value);
    return {VARDATA_ANY(packed), static_cast<size_t>(VARSIZE_ANY_EXHDR(packed))};
}

// The column is indexed. An id that is cut keeps more bytes than any agent's id may have, so that
// it still names an agent that is not there.
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
    const pg::JsonbValueRef* activity = find_value(state, "state");
    const pg::JsonbValueRef* next_run = find_value(state, "nextRunAt");
    if (activity == nullptr || next_run == nullptr || pg::string_of(*activity) != "active")
        return;
    if (const auto text = pg::string_of(*next_run)) {
        if (const auto instant = core::parse_instant(*text)) {
            // Every year of four digits is a timestamptz.
            change.is_due = true;
            change.due_at = pg::timestamptz_from_instant(*instant);
        }
    }
}

bool same_time(TupleTableSlot* slot, AttrNumber column, bool wanted, TimestampTz time) {
    bool is_null = false;
    const Datum value = slot_getattr(slot, column, &is_null);
    return is_null ? !wanted : wanted && DatumGetTimestampTz(value) == time;
}

// Whether the row in the slot is what the change would make of it.
bool is_up_to_date(TupleTableSlot* slot, ScheduleChange& change) {
    const ScheduleTable& columns = own_tables().schedule;
    bool is_null = false;
    slot_getattr(slot, columns.lease_owner, &is_null);
    change.reset_wait = is_null;
    const Datum agent = slot_getattr(slot, columns.agent_id, &is_null);
    if (is_null == change.has_agent || (!is_null && view_of(agent) != change.agent_id))
        return false;
    if (!same_time(slot, columns.due_at, change.is_due, change.due_at))
        return false;
    return !change.reset_wait || (same_time(slot, columns.not_before, false, 0) &&
                                  same_time(slot, columns.wake_at, change.is_due, change.due_at));
}

}  // namespace

bool prepare_schedule(pg::KeyedTable& schedule, Datum user_id, Datum mission_id,
                      const RecordState* state, ScheduleChange& change) {
    using Action = ScheduleChange::Action;
    const Datum key[] = {user_id, mission_id};
    if (state != nullptr)
        read_wishes(*state, change);
    const pg::Lookup seen = pg::peek_row(schedule, key);
    if (seen == pg::Lookup::Busy)
        return false;
    if (seen == pg::Lookup::Found && state != nullptr && is_up_to_date(schedule.slot, change))
        return true;
    const pg::Lookup locked = pg::lock_row_for_sure(schedule, key);
    if (locked == pg::Lookup::Busy)
        return false;
    if (locked == pg::Lookup::Missing) {
        change.action = state != nullptr ? Action::Insert : Action::None;
        return true;
    }
    change.action = state != nullptr ? Action::Update : Action::Delete;
    if (state != nullptr)
        is_up_to_date(schedule.slot, change);  // the lease may have changed since
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
    const int count = RelationGetDescr(schedule.table)->natts;
    auto* values = static_cast<Datum*>(palloc0(sizeof(Datum) * count));
    auto* nulls = static_cast<bool*>(palloc(count));
    auto* replace = static_cast<bool*>(palloc0(count));
    for (int i = 0; i < count; i++)
        nulls[i] = true;
    auto set = [&](AttrNumber column, bool present, Datum value) {
        values[column - 1] = value;
        nulls[column - 1] = !present;
        replace[column - 1] = true;
    };
    const Datum agent = change.has_agent
                            ? PointerGetDatum(cstring_to_text_with_len(
                                  change.agent_id.data(), static_cast<int>(change.agent_id.size())))
                            : Datum{0};
    set(columns.agent_id, change.has_agent, agent);
    set(columns.due_at, change.is_due, TimestampTzGetDatum(change.due_at));
    if (change.action == Action::Insert || change.reset_wait) {
        set(columns.wake_at, change.is_due, TimestampTzGetDatum(change.due_at));
        set(columns.not_before, false, 0);
    }
    if (change.action == Action::Update) {
        pg::update_row(schedule, values, nulls, replace);
        return;
    }
    set(columns.user_id, true, user_id);
    set(columns.mission_id, true, mission_id);
    set(columns.attempts, true, Int32GetDatum(0));
    set(columns.research_spent, true, BoolGetDatum(false));
    pg::insert_row(schedule, values, nulls);
}

}  // namespace mana_ai
