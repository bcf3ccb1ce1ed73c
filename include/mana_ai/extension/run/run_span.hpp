// The span of a whole run, `tick.planMission` (docs/contract/interface.md, Traces).
#pragma once

#include "mana_ai/extension/lease/claimed_mission.hpp"
#include "mana_ai/extension/watch/tracing.hpp"

namespace mana_ai {

// Call it with the mission as stored in its record: it must not get a decrypted title.
SpanScope start_run_span(Tracer& tracer, const ClaimedMission& claimed, core::Instant started_at);

void end_run_span(SpanScope& span, const RunResult& result);

}  // namespace mana_ai
