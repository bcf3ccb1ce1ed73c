// The state of an iteration in a mission's record: whether it waits for its user, reports a
// failure, or is a run in a browser (docs/contract/tick.md, Gates).
//
// The functions may ereport(ERROR): call them inside pg::guarded(). `members` are those of the
// iteration.
#pragma once

#include <optional>

#include "mana_ai/core/time/instant.hpp"
#include "mana_ai/pg/jsonb_object.hpp"

namespace mana_ai {

// A plan of ours that no device has dealt with yet. The one rule for max_unreviewed and for
// mana_ai.stale_plans.
bool waits_for_review(const pg::JsonbFields& members, core::Instant now);

// Whether the iteration only tells the user why there was no plan. Models do not read it, and it is
// not a reason to plan again.
bool is_notice(const pg::JsonbFields& members);

// When a browser began to run the mission, if this is an iteration of a run in progress.
std::optional<core::Instant> browser_run_start(const pg::JsonbFields& members);

}  // namespace mana_ai
