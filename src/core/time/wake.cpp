#include "mana_ai/core/time/wake.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>

namespace mana_ai::core {

namespace {

constexpr Instant kLongestPutOff = 4;  // debounces

// The member in microseconds, within the bounds.
Instant minutes(const Json& cadence, const char* key, Instant otherwise, Instant shortest,
                Instant longest) {
    const auto member = cadence.find(key);
    if (member == cadence.end() || !member->is_number()) {
        return otherwise;
    }
    const auto value = member->get<double>();
    if (std::isnan(value)) {
        return otherwise;
    }
    const auto micros = std::clamp(value * static_cast<double>(kMicrosPerMinute),
                                   static_cast<double>(shortest), static_cast<double>(longest));
    return std::llround(micros);
}

}  // namespace

bool is_on_change(const Json& cadence) noexcept {
    return string_or(cadence, "kind", "") == kOnChange;
}

WakeRule wake_rule(const Json& cadence, const WakeRule& otherwise) {
    if (!is_on_change(cadence)) {
        return otherwise;
    }
    return {minutes(cadence, "debounceMinutes", otherwise.debounce, 0, kLongestDebounce),
            minutes(cadence, "minIntervalMinutes", otherwise.min_interval, kShortestWakeInterval,
                    kLongestWakeInterval)};
}

std::vector<std::string> wake_inputs(const Json& cadence) {
    std::vector<std::string> ids;
    if (!is_on_change(cadence)) {
        return ids;
    }
    const auto inputs = cadence.find("inputs");
    if (inputs == cadence.end() || !inputs->is_array()) {
        return ids;
    }
    for (const Json& input : *inputs) {
        const std::string_view id =
            input.is_string() ? input.get_ref<const std::string&>() : string_or(input, "id", "");
        if (!id.empty()) {
            ids.emplace_back(id);
        }
    }
    return ids;
}

Instant wake_at(const WakeRule& rule, const InputChanges& changes) noexcept {
    Instant at =
        std::min(changes.last + rule.debounce, changes.first + kLongestPutOff * rule.debounce);
    at = std::max(at, changes.first);
    if (changes.planned_at) {
        at = std::max(at, *changes.planned_at + rule.min_interval);
    }
    return at;
}

Instant after_limit(std::span<const Instant> woken, int limit, Instant now) noexcept {
    if (limit <= 0) {
        return now;
    }
    const auto first = std::upper_bound(woken.begin(), woken.end(), now - kMicrosPerHour);
    const auto count = woken.end() - first;
    if (count < limit) {
        return now;
    }
    return *(woken.end() - limit) + kMicrosPerHour;
}

}  // namespace mana_ai::core
