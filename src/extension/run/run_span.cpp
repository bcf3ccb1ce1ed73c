#include "mana_ai/extension/run/run_span.hpp"

namespace mana_ai {

namespace {

void set_plaintext(SpanScope& span, std::string_view key, const std::string& text) {
    if (!text.empty() && !core::is_ciphertext(text))
        span.set(key, text);
}

}  // namespace

SpanScope start_run_span(Tracer& tracer, const ClaimedMission& claimed, core::Instant started_at) {
    SpanScope span = tracer.start_trace("tick.planMission", started_at);
    if (!span)
        return span;
    span.set("run.id", claimed.run_id);
    span.set("mission.id", claimed.mission_id);
    set_plaintext(span, "mission.title", claimed.mission.title);
    span.set("user.id", claimed.user_id);
    if (claimed.agent) {
        span.set("agent.id", claimed.agent->id);
        set_plaintext(span, "agent.name", claimed.agent->name);
    }
    return span;
}

void end_run_span(SpanScope& span, const RunResult& result) {
    span.set("outcome", name(result.outcome));
    span.set("rounds", result.rounds);
    span.set("tokens", result.total_tokens);
    // An unavailable service is an error in the trace, though not the mission's.
    if (result.outcome == RunOutcome::Failed || result.decision == kSkippedService)
        span.fail(result.error_kind.empty() ? "internal" : result.error_kind);
    span.end();
}

}  // namespace mana_ai
