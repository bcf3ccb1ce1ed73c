// PostgreSQL's time (microseconds since 2000) and core::Instant (microseconds since 1970).
#pragma once

#include "mana_ai/core/time/instant.hpp"
#include "mana_ai/core/time/time_zone.hpp"
#include "mana_ai/pg/postgres.hpp"

extern "C" {
#include "pgtime.h"
}

namespace mana_ai::pg {

constexpr int64_t kPostgresEpochOffsetUs =
    (int64_t{POSTGRES_EPOCH_JDATE} - UNIX_EPOCH_JDATE) * SECS_PER_DAY * 1'000'000;

inline core::Instant instant_from_timestamptz(TimestampTz t) {
    return t + kPostgresEpochOffsetUs;
}
inline TimestampTz timestamptz_from_instant(core::Instant t) {
    return t - kPostgresEpochOffsetUs;
}

// The wall clock, not the transaction's start.
inline core::Instant now() {
    return instant_from_timestamptz(GetCurrentTimestamp());
}

// A monotonic clock for pauses and time limits; its zero is arbitrary. Only due times of records
// and tables are compared with now().
core::Instant monotonic_now();

// A named zone of PostgreSQL's own database. Throws PgError (22023) for an unknown name.
class PostgresTimeZone : public core::TimeZone {
 public:
    explicit PostgresTimeZone(const std::string& name);
    core::CivilTime to_local(core::Instant instant) const override;
    core::Instant from_local(const core::CivilTime& local) const override;

 private:
    pg_tz* zone_;  // lives as long as the process
};

}  // namespace mana_ai::pg
