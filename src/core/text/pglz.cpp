#include "mana_ai/core/text/pglz.hpp"

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstring>

namespace mana_ai::core {

namespace {

constexpr size_t kItems = 8;
constexpr size_t kShortestMatch = 3;
constexpr size_t kLongestShortMatch = 18;
constexpr size_t kBlock = 16;

}  // namespace

bool expand_pglz(std::string_view compressed, char* out, size_t size) noexcept {
    const auto* from = reinterpret_cast<const uint8_t*>(compressed.data());
    const uint8_t* const from_end = from + compressed.size();
    char* to = out;
    char* const to_end = out + size;
    auto source_left = [&] { return static_cast<size_t>(from_end - from); };
    auto room = [&] { return static_cast<size_t>(to_end - to); };

    // False when there is no such match.
    auto copy_match = [&] {
        if (source_left() < 2)
            return false;
        size_t length = (from[0] & 0x0fU) + kShortestMatch;
        const size_t distance = (from[0] & 0xf0U) << 4 | from[1];
        from += 2;
        if (length == kLongestShortMatch) {
            if (from == from_end)
                return false;
            length += *from++;
        }
        if (distance == 0 || distance > static_cast<size_t>(to - out) || length > room())
            return false;
        const char* match = to - distance;
        if (distance >= kBlock && room() >= length + kBlock) {
            // The last block may write more than the match, which is overwritten later.
            for (size_t done = 0; done < length; done += kBlock)
                std::memcpy(to + done, match + done, kBlock);
        } else {
            // What was just written may be part of the match.
            for (size_t done = 0; done < length; done++)
                to[done] = match[done];
        }
        to += length;
        return true;
    };

    while (from < from_end) {
        // The bit above is left when all items are done.
        for (uint32_t control = *from++ | 1U << kItems; control > 1 && from < from_end;) {
            const int literals = std::countr_zero(control);
            if (literals == 0) {
                if (!copy_match())
                    return false;
                control >>= 1;
                continue;
            }
            size_t count = static_cast<size_t>(literals);
            if (source_left() >= kItems && room() >= kItems) {
                std::memcpy(to, from, kItems);
            } else {
                count = std::min(count, source_left());
                if (count > room())
                    return false;
                std::memcpy(to, from, count);
            }
            from += count;
            to += count;
            control >>= literals;
        }
    }
    return from == from_end && to == to_end;
}

}  // namespace mana_ai::core
