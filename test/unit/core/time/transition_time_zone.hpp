// Time zones made of explicit transitions, so that the tests need no zone data of the system.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "mana_ai/core/time/instant.hpp"
#include "mana_ai/core/time/time_zone.hpp"

namespace mana_ai::core {

class TransitionTimeZone : public TimeZone {
 public:
    struct Transition {
        Instant at;
        int offset_minutes;  // east of Greenwich, from `at` on
    };

    TransitionTimeZone(int first_offset_minutes, std::vector<Transition> transitions)
        : first_offset_minutes_(first_offset_minutes), transitions_(std::move(transitions)) {}

    CivilTime to_local(Instant instant) const override {
        return civil_from_instant_utc(instant + offset_at(instant));
    }

    Instant from_local(const CivilTime& local) const override {
        const Instant wall = instant_from_civil_utc(local);
        // No zone is further than a day from UTC, so these are in force around the local time.
        const Instant before = offset_at(wall - kMicrosPerDay);
        const Instant after = offset_at(wall + kMicrosPerDay);
        const Instant with_before = wall - before;
        if (offset_at(with_before) == before || offset_at(wall - after) != after) {
            return with_before;
        }
        return wall - after;
    }

 private:
    Instant offset_at(Instant instant) const {
        int minutes = first_offset_minutes_;
        for (const Transition& transition : transitions_) {
            if (instant >= transition.at) {
                minutes = transition.offset_minutes;
            }
        }
        return minutes * kMicrosPerMinute;
    }

    int first_offset_minutes_;
    std::vector<Transition> transitions_;
};

// Central European time: summer time from the last Sunday of March to that of October, changed at
// 01:00 UTC.
inline TransitionTimeZone berlin() {
    std::vector<TransitionTimeZone::Transition> transitions;
    for (int year = 2020; year <= 2040; ++year) {
        for (const auto& [month, offset] : {std::pair{3, 120}, std::pair{10, 60}}) {
            const std::int64_t last_day = days_from_civil(year, month, 31);
            const std::int64_t last_sunday = last_day - (last_day + 4) % 7;
            transitions.push_back({last_sunday * kMicrosPerDay + kMicrosPerHour, offset});
        }
    }
    return {60, std::move(transitions)};
}

}  // namespace mana_ai::core
