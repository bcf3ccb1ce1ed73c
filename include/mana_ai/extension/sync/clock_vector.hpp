// The stored form of the clocks of the fields that a run has read of a record. With it the record
// can be rebuilt from the log as the run saw it, whatever was written since: of each field exactly
// the writes that are not newer count (docs/lineage.md).
//
// A field is a hash of its name and its clock, so the form holds no text, neither names nor values.
// As hexadecimal digits: for each field in jsonb's order
//   u8   rank of the write, plus 16 if its times are those of the previous field
//   i64  time, i64 row time: only without the 16
//   u64  FNV-1a of the name
// Numbers in network byte order, so that a dump can be restored anywhere.
//
// The functions may ereport(ERROR): call them inside pg::guarded(). Memory comes from the current
// context.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "mana_ai/extension/sync/lww_record.hpp"

namespace mana_ai {

// Begins the digest that replaces a vector that is not stored. No record can be rebuilt with it,
// but it shows whether a record has changed.
inline constexpr std::string_view kDigestOfClocks = "ff";

// Stands before the vector of another member's agent, which has only the fields that are read of
// such an agent.
inline constexpr std::string_view kClocksOfShared = "fe";

// A record with more fields, including paths, gets a digest; a vector would be too large.
inline constexpr uint32_t kMaxClockedFields = 200;

// Which fields count: those of the list and the paths into them.
struct ReadFields {
    std::span<const std::string_view> names;
    std::string_view further = {};  // one more; empty = none

    bool contain(std::string_view field) const;
};

// A digest if there are too many fields.
const char* clock_vector_of(const RecordState& state, const ReadFields& read);

// Of a vector; of a digest itself. Does not ereport.
std::string digest_of_clocks(std::string_view vector);
bool is_digest_of_clocks(std::string_view clocks);

struct ClockBound {
    uint64_t name_hash;
    core::FieldClock clock;  // time, row time and rank
};
struct ClockBounds {
    ClockBound* fields = nullptr;  // by hash
    uint32_t count = 0;
};
// False: it was not made by clock_vector_of().
bool read_clock_vector(std::string_view vector, ClockBounds& bounds);

// Null: there is none.
const ClockBound* find_bound(const ClockBounds& bounds, uint64_t name_hash);

// Whether the run had seen a write of this clock to this field, or could have.
bool is_within(const ClockBounds& bounds, std::string_view field, const core::FieldClock& clock);

// How many fields the state does not have with exactly the clock that the run saw: their rows are
// no longer in the log, or the policies hide them.
uint32_t count_lost(const ClockBounds& bounds, const RecordState& state);

}  // namespace mana_ai
