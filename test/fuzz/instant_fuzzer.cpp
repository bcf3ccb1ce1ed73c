// Any text: parse_instant and parse_retry_after never fail, and what they accept is sound.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <optional>
#include <string_view>

#include "mana_ai/core/service/retry_after.hpp"
#include "mana_ai/core/time/instant.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    using namespace mana_ai::core;
    const std::string_view text(reinterpret_cast<const char*>(data), size);

    if (const std::optional<Instant> instant = parse_instant(text)) {
        const CivilTime civil = civil_from_instant_utc(*instant);
        if (instant_from_civil_utc(civil) != *instant) {
            std::abort();
        }
        // The offset may lead out of the years that the form can name.
        if (*instant >= kFirstIsoInstant && *instant < kEndOfIsoInstants &&
            parse_instant(to_iso_millis(*instant)) != *instant - civil.micros % 1000) {
            std::abort();
        }
    }
    const std::optional<Instant> delay = parse_retry_after(text, 1'776'211'200 * kMicrosPerSecond);
    if (delay && (*delay < 0 || *delay > kMaxRetryAfter)) {
        std::abort();
    }
    return 0;
}
