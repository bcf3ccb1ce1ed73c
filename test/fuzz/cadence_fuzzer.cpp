// Eight bytes of instant, then a cadence as JSON or a cron expression: there is always either a
// later instant or a problem (neither for manual), never a fault.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <string_view>

#include "mana_ai/core/time/cadence.hpp"

namespace {

using namespace mana_ai::core;

// UTC+1 with a summer time from 2026-03-29 to 2026-10-25.
struct OneSummer final : TimeZone {
    static constexpr Instant kStart = 1'774'746'000 * kMicrosPerSecond;
    static constexpr Instant kEnd = 1'792'890'000 * kMicrosPerSecond;

    static Instant offset(Instant instant) {
        return instant >= kStart && instant < kEnd ? 2 * kMicrosPerHour : kMicrosPerHour;
    }
    CivilTime to_local(Instant instant) const override {
        return civil_from_instant_utc(instant + offset(instant));
    }
    Instant from_local(const CivilTime& local) const override {
        const Instant wall = instant_from_civil_utc(local);
        const Instant summer = wall - 2 * kMicrosPerHour;
        return offset(summer) == 2 * kMicrosPerHour ? summer : wall - kMicrosPerHour;
    }
};

void check(const Json& cadence, Instant after, const TimeZone& zone) {
    const NextRun run = next_run(cadence, after, zone);
    const bool manual = string_or(cadence, "kind", "") == "manual";
    if (manual ? run.at || !run.problem.empty() : run.at.has_value() != run.problem.empty()) {
        std::abort();
    }
    if (run.at && (*run.at <= after || *run.at >= kEndOfIsoInstants)) {
        std::abort();
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    Instant after = 0;
    if (size < sizeof after) {
        return 0;
    }
    std::memcpy(&after, data, sizeof after);
    const std::string_view text(reinterpret_cast<const char*>(data) + sizeof after,
                                size - sizeof after);
    const Instant near_a_change = OneSummer::kEnd - kMicrosPerHour + after % kMicrosPerDay;
    const Json cron = {{"kind", "cron"}, {"expression", text}};
    for (const Instant start : {after, near_a_change}) {
        check(cron, start, OneSummer());
        if (const std::optional<Json> cadence = parse_json(text)) {
            check(*cadence, start, UtcTimeZone());
            check(*cadence, start, OneSummer());
        }
    }
    return 0;
}
