// Decompression of what PostgreSQL has compressed with pglz, its default for long values: several
// times faster than its own, which goes byte by byte. A row of a mission is decompressed by every
// insert of one, and by every replay.
//
// A stream is groups of a control byte and eight items, fewer in the last group. A bit of the
// control byte, the lowest first, says what the item is: 0 = a byte of the value, 1 = a match, that
// is a copy of earlier bytes of the value. A match has two bytes: length - 3 in the low four bits
// of the first, and the distance back, its high four bits in those of the first. If these four bits
// are all set, a third byte is added to the length.
#pragma once

#include <cstddef>
#include <string_view>

namespace mana_ai::core {

// Writes exactly `size` bytes to `out`; false when the stream is not one of so many bytes.
bool expand_pglz(std::string_view compressed, char* out, std::size_t size) noexcept;

}  // namespace mana_ai::core
