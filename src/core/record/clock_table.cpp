#include "mana_ai/core/record/clock_table.hpp"

#include <cstring>

namespace mana_ai::core {

namespace {

constexpr uint8_t kVersion = 1;
constexpr size_t kHeaderSize = 16;
constexpr size_t kClockSize = 24;
constexpr int kRankShift = 62;
constexpr uint64_t kTied = uint64_t{1} << 61;
constexpr uint64_t kPositionMask = kTied - 1;

// Rows are compared with this many clocks before a new entry is made: keeps encoding linear.
constexpr uint32_t kDictionaryWindow = 32;

template <class T>
T load(const char* from) noexcept {
    T value;
    std::memcpy(&value, from, sizeof value);
    return value;
}

template <class T>
void store(char* to, T value) noexcept {
    std::memcpy(to, &value, sizeof value);
}

void store_clock(char* to, const FieldClock& clock) noexcept {
    store(to, clock.time);
    store(to + 8, clock.row_time);
    store(to + 16, static_cast<uint64_t>(clock.rank) << kRankShift | (clock.tied ? kTied : 0) |
                       (clock.position & kPositionMask));
}

FieldClock load_clock(const char* from) noexcept {
    const auto packed = load<uint64_t>(from + 16);
    return {load<int64_t>(from), load<int64_t>(from + 8),
            static_cast<WriteRank>(packed >> kRankShift), packed & kPositionMask,
            (packed & kTied) != 0};
}

uint8_t width_for(uint32_t distinct) noexcept {
    if (distinct <= 0x100)
        return 1;
    return distinct <= 0x10000 ? 2 : 4;
}

}  // namespace

ClockTableReader::ClockTableReader(std::string_view bytes, uint32_t generation) noexcept
    : bytes_(bytes) {
    if (bytes.size() < kHeaderSize || static_cast<uint8_t>(bytes[0]) != kVersion)
        return;
    index_width_ = static_cast<uint8_t>(bytes[1]);
    has_cleared_deletion_ =
        (static_cast<uint8_t>(bytes[kClockFlagsByte]) & kHasClearedDeletion) != 0;
    same_generation_ = load<uint32_t>(&bytes[4]) == generation;
    count_ = load<uint32_t>(&bytes[8]);
    distinct_ = load<uint32_t>(&bytes[12]);
    if (index_width_ != width_for(distinct_))
        return;
    const uint64_t table_size =
        kHeaderSize + uint64_t{distinct_} * kClockSize + uint64_t{count_} * index_width_;
    const bool has_rest = (static_cast<uint8_t>(bytes[kClockFlagsByte]) & kHasRest) != 0;
    valid_ = (has_rest ? bytes.size() > table_size : bytes.size() == table_size) &&
             (count_ == 0 || distinct_ > 0);
    if (valid_)
        rest_ = bytes.substr(table_size);
}

FieldClock ClockTableReader::at(uint32_t i) const noexcept {
    const char* from =
        bytes_.data() + kHeaderSize + size_t{distinct_} * kClockSize + size_t{i} * index_width_;
    uint32_t index = 0;
    if (index_width_ == 1)
        index = load<uint8_t>(from);
    else if (index_width_ == 2)
        index = load<uint16_t>(from);
    else
        index = load<uint32_t>(from);
    if (index >= distinct_)
        index = 0;
    FieldClock clock = load_clock(bytes_.data() + kHeaderSize + size_t{index} * kClockSize);
    if (!same_generation_)
        clock.position = 0;
    return clock;
}

size_t clock_table_bound(uint32_t count) noexcept {
    return kHeaderSize + size_t{count} * (kClockSize + sizeof(uint32_t));
}

size_t encode_clock_table(const FieldClock* clocks, uint32_t count, bool has_cleared_deletion,
                          uint32_t generation, char* out, std::string_view rest) noexcept {
    // Indexes are collected at the end of the buffer, in their widest form: the dictionary grows
    // towards them and never reaches one that was not read yet.
    char* const dictionary = out + kHeaderSize;
    char* const wide_indexes = dictionary + size_t{count} * kClockSize;
    uint32_t distinct = 0;
    uint8_t flags = has_cleared_deletion ? kHasClearedDeletion : uint8_t{0};
    if (!rest.empty())
        flags |= kHasRest;
    for (uint32_t i = 0; i < count; i++) {
        if (clocks[i].tied)
            flags |= kHasTie;
        char packed[kClockSize];
        store_clock(packed, clocks[i]);
        uint32_t index = 0;
        const uint32_t window = distinct < kDictionaryWindow ? distinct : kDictionaryWindow;
        while (index < window &&
               std::memcmp(dictionary + size_t{index} * kClockSize, packed, kClockSize) != 0)
            index++;
        if (index == window) {
            index = distinct++;
            std::memcpy(dictionary + size_t{index} * kClockSize, packed, kClockSize);
        }
        store(wide_indexes + size_t{i} * sizeof(uint32_t), index);
    }

    const uint8_t width = width_for(distinct);
    char* to = dictionary + size_t{distinct} * kClockSize;
    for (uint32_t i = 0; i < count; i++) {
        const auto index = load<uint32_t>(wide_indexes + size_t{i} * sizeof(uint32_t));
        if (width == 1)
            store(to, static_cast<uint8_t>(index));
        else if (width == 2)
            store(to, static_cast<uint16_t>(index));
        else
            store(to, index);
        to += width;
    }

    store(out, kVersion);
    store(out + 1, width);
    store(out + kClockFlagsByte, flags);
    store(out + 3, uint8_t{0});
    store(out + 4, generation);
    store(out + 8, count);
    store(out + 12, distinct);
    if (!rest.empty())
        std::memcpy(to, rest.data(), rest.size());
    to += rest.size();
    return static_cast<size_t>(to - out);
}

}  // namespace mana_ai::core
