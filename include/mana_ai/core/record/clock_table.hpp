// The stored form of a record's clocks (column "clocks" of the snapshot tables).
//
// One clock per field of the record in the record's own order, then that of a cleared deletedAt if
// there is one, then that of the row which decided space_id. Most fields share the clock of the row
// that created the record, so distinct clocks are stored once and the fields hold indexes.
//
//   u8 version, u8 index width (1, 2 or 4), u8 flags, u8 zero, u32 generation of the log,
//   u32 number of indexes, u32 number of distinct clocks,
//   the clocks: i64 time, i64 row time, u64 rank << 62 | tied << 61 | position; then the indexes;
//   then the rest of the record's state (lww_record.cpp), up to the end.
//
// Flags: 1 there is a cleared deletedAt, 2 one of the clocks is tied, 4 something follows the
// indexes.
//
// Numbers are in the machine's byte order, as in all of PostgreSQL's files.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "mana_ai/core/record/lww.hpp"

namespace mana_ai::core {

inline constexpr size_t kClockFlagsByte = 2;
inline constexpr uint8_t kHasClearedDeletion = 1;
inline constexpr uint8_t kHasTie = 2;
inline constexpr uint8_t kHasRest = 4;

// Reads a stored form. Clocks whose position belongs to another generation of the log (the table
// was rewritten: VACUUM FULL, CLUSTER, restore) come back with an unknown position.
class ClockTableReader {
 public:
    // `bytes` must outlive the reader.
    ClockTableReader(std::string_view bytes, uint32_t generation) noexcept;

    bool valid() const noexcept { return valid_; }  // false: another format, or damaged
    uint32_t size() const noexcept { return count_; }
    bool has_cleared_deletion() const noexcept { return has_cleared_deletion_; }
    FieldClock at(uint32_t i) const noexcept;  // i < size()
    std::string_view rest() const noexcept { return rest_; }

 private:
    std::string_view bytes_;
    std::string_view rest_;
    bool valid_ = false;
    bool has_cleared_deletion_ = false;
    bool same_generation_ = false;
    uint8_t index_width_ = 1;
    uint32_t count_ = 0;
    uint32_t distinct_ = 0;
};

// The most room that encode_clock_table() needs, without what follows the indexes.
size_t clock_table_bound(uint32_t count) noexcept;

// Writes the stored form of `count` clocks to `out`, which has room for clock_table_bound(count) +
// rest.size() bytes; returns its length.
size_t encode_clock_table(const FieldClock* clocks, uint32_t count, bool has_cleared_deletion,
                          uint32_t generation, char* out, std::string_view rest = {}) noexcept;

}  // namespace mana_ai::core
