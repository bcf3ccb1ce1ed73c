// The rules of field-level last-writer-wins, free of any representation of JSON
// (docs/contract/data.md, Field-level last-writer-wins).
//
// Every write of a field has a FieldClock. The clocks of a record's writes have a total order, and
// a field has the value of its greatest clock, so the record does not depend on the order in which
// its rows arrive.
#pragma once

#include <algorithm>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <string_view>

#include "mana_ai/core/time/instant.hpp"

namespace mana_ai::core {

inline constexpr Instant kOlderThanEverything = std::numeric_limits<Instant>::min();

enum class RowOp : uint8_t { Insert, Update, Delete };

// Everything that is neither 'insert' nor 'delete' changes fields, as 'update' does.
RowOp parse_row_op(std::string_view op) noexcept;

// What breaks ties of equal field times within rows of equal created_at.
enum class WriteRank : uint8_t {
    Clearing = 0,  // an insert that does not name deletedAt clears that of older deletes
    Insert = 1,
    Change = 2,
};

struct FieldClock {
    Instant time = kOlderThanEverything;      // of the field in the row
    Instant row_time = kOlderThanEverything;  // the row's created_at
    WriteRank rank = WriteRank::Clearing;
    // Physical place of the row in the log; 0 = unknown, because the log was rewritten since.
    uint64_t position = 0;
    // Another row has the same time, row_time and rank for this field, but a different value: after
    // a rewrite of the log the other row may be the later one.
    bool tied = false;

    bool operator==(const FieldClock&) const = default;
};

// The clock of the deletedAt that an insert of this record time clears: older than every real
// write of the same time, so that a delete at exactly the time of the insert stays.
constexpr FieldClock clearing_clock(Instant record_time) noexcept {
    return {record_time, kOlderThanEverything, WriteRank::Clearing, 0};
}

enum class Precedence : uint8_t {
    Older,    // the new write loses
    Same,     // it is the write that the field holds
    Newer,    // it wins
    Unknown,  // physical order decides, and it is no longer known
};

inline Precedence precedence(const FieldClock& incoming, const FieldClock& held) noexcept {
    if (const auto order = incoming.time <=> held.time; order != 0)
        return order > 0 ? Precedence::Newer : Precedence::Older;
    if (const auto order = incoming.row_time <=> held.row_time; order != 0)
        return order > 0 ? Precedence::Newer : Precedence::Older;
    if (const auto order = incoming.rank <=> held.rank; order != 0)
        return order > 0 ? Precedence::Newer : Precedence::Older;
    if (incoming.position == held.position &&
        (incoming.position != 0 || held.rank == WriteRank::Clearing))
        return Precedence::Same;
    if (incoming.position == 0 || held.position == 0)
        return Precedence::Unknown;
    return incoming.position > held.position ? Precedence::Newer : Precedence::Older;
}

// Whether two writes differ only in the physical order of their rows.
inline bool is_tie(const FieldClock& a, const FieldClock& b) noexcept {
    return a.time == b.time && a.row_time == b.row_time && a.rank == b.rank &&
           a.rank != WriteRank::Clearing;
}

// The time of a field that carries no usable stamp in its row.
struct RowTimes {
    RowOp op = RowOp::Update;
    Instant created_at = 0;
    std::optional<Instant> updated_at_field;  // data.updatedAt and data.createdAt, when instants
    std::optional<Instant> created_at_field;
};
constexpr Instant unstamped_time(const RowTimes& row) noexcept {
    if (row.op != RowOp::Insert)
        return row.created_at;
    if (row.updated_at_field)
        return *row.updated_at_field;
    return row.created_at_field.value_or(kOlderThanEverything);
}

// A name with dots is a path into the field whose name is the part before the first dot.
inline constexpr std::ptrdiff_t kMaxPathParts = 32;

constexpr bool is_path(std::string_view name) noexcept {
    return name.find('.') != std::string_view::npos;
}
constexpr std::string_view head_of(std::string_view name) noexcept {
    return name.substr(0, name.find('.'));
}

// Whether clock a is older wherever the rows are, even after a rewrite of the log.
constexpr bool is_older(const FieldClock& a, const FieldClock& b) noexcept {
    if (a.time != b.time)
        return a.time < b.time;
    if (a.row_time != b.row_time)
        return a.row_time < b.row_time;
    return a.rank < b.rank;
}

// Whether a write to a part of a value is lost because of a newer write of the whole. Of equal
// clocks the part wins.
constexpr bool is_overwritten(const FieldClock& part, const FieldClock& whole) noexcept {
    return is_older(part, whole);
}

// "id" is always the row's record_id, and names that begin with __ are the client's bookkeeping.
// deletedAt is a time or nothing: it has no parts. No client nests as deep as kMaxPathParts.
constexpr bool is_ignored_field(std::string_view name) noexcept {
    if (name == "id" || name.starts_with("__"))
        return true;
    if (!is_path(name))
        return false;
    const std::string_view head = head_of(name);
    return head == "id" || head == "deletedAt" ||
           std::count(name.begin(), name.end(), '.') >= kMaxPathParts;
}

}  // namespace mana_ai::core
