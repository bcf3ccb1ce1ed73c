// Decompression of pglz, PostgreSQL's default for long values: several times faster than
// PostgreSQL's own, which works byte by byte. Every insert of a mission row decompresses it, and so
// does every replay.
//
// A stream consists of groups of a control byte and eight items, fewer in the last group. The bits
// of the control byte, the lowest first, say what the items are: 0 = a byte of the value, 1 = a
// match, that is a copy of earlier bytes of the value. A match has two bytes: length - 3 in the low
// four bits of the first, and the distance back, whose high four bits are those of the first byte.
// If the four bits of the length are all set, a third byte is added to the length.
#pragma once

#include <cstddef>
#include <string_view>

namespace mana_ai::core {

// Writes exactly `size` bytes to `out`; false if the stream does not have exactly that many bytes.
bool expand_pglz(std::string_view compressed, char* out, std::size_t size) noexcept;

}  // namespace mana_ai::core
