#include "mana_ai/core/time/time_zone.hpp"

namespace mana_ai::core {

TimeZone::~TimeZone() = default;

CivilTime UtcTimeZone::to_local(Instant instant) const {
    return civil_from_instant_utc(instant);
}

Instant UtcTimeZone::from_local(const CivilTime& local) const {
    return instant_from_civil_utc(local);
}

}  // namespace mana_ai::core
