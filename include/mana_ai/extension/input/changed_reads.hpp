// Whether the records that a run has read have changed since.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "mana_ai/extension/input/input_records.hpp"
#include "mana_ai/extension/sync/clock_vector.hpp"

namespace mana_ai {

inline constexpr core::Instant kUnknownChange = core::kEndOfIsoInstants;

enum class ReadState : uint8_t { Same, Changed, Unknown };
struct ReadChange {
    ReadState state = ReadState::Same;
    core::Instant at = kUnknownChange;  // of the newest write that changed it, if anybody knows
};

// Of a record's fields as the run has seen them and as they are now, both as clock_vector_of() or
// digest_of_clocks() gives them. Unknown: what was seen is no such text.
ReadChange change_of_clocks(std::string_view seen, std::string_view now);

// What a run has read of a record that a mission refers to.
struct SeenInput {
    std::string_view user_id;
    std::string_view module;
    std::string_view table;
    std::string_view id;
    bool was_there = true;
    RecordClocks clocks;
};

// Reads the record again as read_input_record() does, for limit_us at most, in the current
// transaction. Unknown: it cannot be read now, or not in that time, or only a resolver knows it.
ReadChange change_of_input(const SeenInput& seen, int64_t limit_us);

}  // namespace mana_ai
