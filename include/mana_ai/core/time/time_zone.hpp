// What the cadence rules need to know about a time zone. The zone data comes from PostgreSQL; core
// uses only this interface.
#pragma once

#include "mana_ai/core/time/instant.hpp"

namespace mana_ai::core {

struct TimeZone {
    virtual ~TimeZone();

    virtual CivilTime to_local(Instant instant) const = 0;

    // A local time that a clock change skips is interpreted with the offset before the change, as
    // PostgreSQL does (02:30 becomes 03:30). A local time that occurs twice means its first
    // occurrence.
    virtual Instant from_local(const CivilTime& local) const = 0;
};

// UTC, for callers without zone data.
struct UtcTimeZone final : TimeZone {
    CivilTime to_local(Instant instant) const override;
    Instant from_local(const CivilTime& local) const override;
};

}  // namespace mana_ai::core
