#include "mana_ai/extension/lease/watching.hpp"

#include "mana_ai/core/record/plan_basis.hpp"
#include "mana_ai/core/time/wake.hpp"
#include "mana_ai/extension/sync/input_marks.hpp"
#include "mana_ai/pg/settings.hpp"
#include "mana_ai/pg/watch_filter.hpp"

namespace mana_ai {

bool has_opted_in(const ClaimedMission& claimed) {
    return claimed.wake_on_change.value_or(pg::settings::wake_on_change()) &&
           core::is_recurring(claimed.mission.cadence);
}

bool may_be_watching(const ClaimedMission& claimed) {
    return core::is_on_change(claimed.mission.cadence) || claimed.woken_at ||
           has_opted_in(claimed) ||
           pg::watch_filter::look_up(watch_hash(
               claimed.user_id, "aiMissions", claimed.mission_id)) != pg::watch_filter::Answer::No;
}

}  // namespace mana_ai
