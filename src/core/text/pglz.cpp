#include "mana_ai/core/text/pglz.hpp"

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstring>
#include <type_traits>

namespace mana_ai::core {

namespace {

constexpr size_t kItems = 8;
constexpr size_t kItemBytes = 3;  // of the stream, at most
constexpr size_t kShortestMatch = 3;
constexpr size_t kLongestShortMatch = 18;
constexpr size_t kBlock = 16;
// The bytes of a group, and those that may be read after it.
constexpr size_t kFarFromEnd = kItems * kItemBytes + kItems;

}  // namespace

bool expand_pglz(std::string_view compressed, char* out, size_t size) noexcept {
    const auto* from = reinterpret_cast<const uint8_t*>(compressed.data());
    const uint8_t* const from_end = from + compressed.size();
    char* to = out;
    char* const to_end = out + size;
    auto source_left = [&] { return static_cast<size_t>(from_end - from); };
    auto room = [&] { return static_cast<size_t>(to_end - to); };

    // False if there is no such match. Far from the stream's end no bounds are checked.
    auto copy_match = [&]<bool kIsFar>(std::bool_constant<kIsFar>) {
        if (!kIsFar && source_left() < 2)
            return false;
        size_t length = (from[0] & 0x0fU) + kShortestMatch;
        const size_t distance = (from[0] & 0xf0U) << 4 | from[1];
        from += 2;
        if (length == kLongestShortMatch) {
            if (!kIsFar && from == from_end)
                return false;
            length += *from++;
        }
        // A distance of 0 is then the greatest of all.
        if (distance - 1 >= static_cast<size_t>(to - out))
            return false;
        const char* match = to - distance;
        if (distance >= kBlock && room() >= length + kBlock) {
            // The last block may write more than the match, which is overwritten later.
            std::memcpy(to, match, kBlock);
            for (size_t done = kBlock; done < length; done += kBlock)
                std::memcpy(to + done, match + done, kBlock);
        } else {
            if (length > room())
                return false;
            // What was just written may be part of the match.
            for (size_t done = 0; done < length; done++)
                to[done] = match[done];
        }
        to += length;
        return true;
    };
    auto expand_group = [&]<bool kIsFar>(std::bool_constant<kIsFar> far) {
        // The bit above is left when all items are done.
        for (uint32_t control = *from++ | 1U << kItems; control > 1;) {
            if (!kIsFar && from == from_end)
                return true;
            const int literals = std::countr_zero(control);
            if (literals == 0) {
                if (!copy_match(far))
                    return false;
                control >>= 1;
                continue;
            }
            size_t count = static_cast<size_t>(literals);
            if ((kIsFar || source_left() >= kItems) && room() >= kItems) {
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
        return true;
    };

    while (source_left() > kFarFromEnd)
        if (!expand_group(std::true_type()))
            return false;
    while (from < from_end)
        if (!expand_group(std::false_type()))
            return false;
    return from == from_end && to == to_end;
}

}  // namespace mana_ai::core
