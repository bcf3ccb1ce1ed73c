// Whether the records that a run has read have changed since.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "mana_ai/extension/input/input_records.hpp"
#include "mana_ai/extension/sync/clock_vector.hpp"

namespace mana_ai {

inline constexpr core::Instant kUnknownChange = core::kEndOfIsoInstants;

struct ClockChange {
    bool has_changed = false;
    core::Instant at = core::kOlderThanEverything;  // of the newest such row; or kUnknownChange
};
// What has been written since the clocks were seen. `is_whole`: both are of the same fields, so a
// field that is missing now was removed.
ClockChange change_of_clocks(const ClockBounds& seen, const ClockBounds& now, bool is_whole);

// When a record that a mission refers to was last written, if it has changed since the run;
// kUnknownChange: it no longer exists. nullopt: it is unchanged, or that cannot be determined. In
// the current transaction, as read_input_record().
std::optional<core::Instant> input_change(const std::string& user_id, std::string_view module,
                                          std::string_view table, std::string_view id,
                                          const RecordClocks& seen);

}  // namespace mana_ai
