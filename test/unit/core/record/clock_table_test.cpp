#include "mana_ai/core/record/clock_table.hpp"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace mana_ai::core {
namespace {

constexpr uint32_t kGeneration = 4711;

std::string encode(const std::vector<FieldClock>& clocks, bool has_cleared = false) {
    std::string room(clock_table_bound(static_cast<uint32_t>(clocks.size())), '\xee');
    room.resize(encode_clock_table(clocks.data(), static_cast<uint32_t>(clocks.size()), has_cleared,
                                   kGeneration, room.data()));
    return room;
}

void expect_round_trip(const std::vector<FieldClock>& clocks) {
    const std::string bytes = encode(clocks);
    const ClockTableReader reader(bytes, kGeneration);
    ASSERT_TRUE(reader.valid());
    ASSERT_EQ(reader.size(), clocks.size());
    for (uint32_t i = 0; i < reader.size(); i++)
        EXPECT_EQ(reader.at(i), clocks[i]) << i;
}

std::vector<FieldClock> different_clocks(size_t count) {
    std::vector<FieldClock> clocks;
    for (size_t i = 0; i < count; i++)
        clocks.push_back({static_cast<Instant>(i * 3), -static_cast<Instant>(i),
                          static_cast<WriteRank>(i % 3), i + 1});
    return clocks;
}

TEST(ClockTable, EveryClockComesBack) {
    expect_round_trip({});
    expect_round_trip({{kOlderThanEverything, 5, WriteRank::Insert, 1}});
    // Indexes of one, two and four bytes.
    for (const size_t count : {2, 255, 256, 257, 65'536, 65'537})
        expect_round_trip(different_clocks(count));
}

TEST(ClockTable, ManyFieldsOfOneRowShareOneClock) {
    std::vector<FieldClock> clocks(20, {1, 2, WriteRank::Insert, 3});
    const size_t shared = encode(clocks).size();
    EXPECT_EQ(shared, 16 + 24 + 20u);
    clocks[7].time = 9;
    EXPECT_EQ(encode(clocks).size(), shared + 24);
    expect_round_trip(clocks);
}

TEST(ClockTable, WhatFollowsTheClocksComesBack) {
    for (const size_t count : {0, 1, 300}) {
        const std::vector<FieldClock> clocks = different_clocks(count);
        for (const std::string& rest :
             {std::string(), std::string(1, '\0'), std::string(99, 'x')}) {
            std::string bytes(clock_table_bound(static_cast<uint32_t>(count)) + rest.size(),
                              '\xee');
            bytes.resize(encode_clock_table(clocks.data(), static_cast<uint32_t>(count), false,
                                            kGeneration, bytes.data(), rest));
            const ClockTableReader reader(bytes, kGeneration);
            ASSERT_TRUE(reader.valid());
            EXPECT_EQ(reader.rest(), rest);
            ASSERT_EQ(reader.size(), count);
            for (uint32_t i = 0; i < reader.size(); i++)
                EXPECT_EQ(reader.at(i), clocks[i]) << i;
        }
    }
}

TEST(ClockTable, ThePlaceOfARowIsForgottenWhenTheLogWasRewritten) {
    const std::string bytes = encode({{1, 2, WriteRank::Change, 3}});
    const ClockTableReader reader(bytes, kGeneration + 1);
    ASSERT_TRUE(reader.valid());
    EXPECT_EQ(reader.at(0), (FieldClock{1, 2, WriteRank::Change, 0}));
}

TEST(ClockTable, ATieOutlivesTheRewriteThatMayTurnIt) {
    const std::vector<FieldClock> clocks = {{1, 2, WriteRank::Change, 3, true},
                                            {1, 2, WriteRank::Change, 3, false}};
    expect_round_trip(clocks);
    const std::string bytes = encode(clocks);
    EXPECT_EQ(bytes[kClockFlagsByte] & kHasTie, kHasTie);
    const ClockTableReader reader(bytes, kGeneration + 1);
    EXPECT_EQ(reader.at(0), (FieldClock{1, 2, WriteRank::Change, 0, true}));
    EXPECT_EQ(encode({clocks[1]})[kClockFlagsByte] & kHasTie, 0);
}

TEST(ClockTable, AClearedDeletionIsRemembered) {
    const std::vector<FieldClock> clocks = {clearing_clock(4), {1, 2, WriteRank::Change, 3}};
    EXPECT_TRUE(ClockTableReader(encode(clocks, true), kGeneration).has_cleared_deletion());
    EXPECT_FALSE(ClockTableReader(encode(clocks), kGeneration).has_cleared_deletion());
}

TEST(ClockTable, DamagedBytesAreRefused) {
    const std::string good = encode(different_clocks(5));
    EXPECT_FALSE(ClockTableReader("", kGeneration).valid());
    EXPECT_FALSE(ClockTableReader(good + "x", kGeneration).valid());
    for (size_t size = 0; size < good.size(); size++)
        EXPECT_FALSE(ClockTableReader(good.substr(0, size), kGeneration).valid()) << size;
    // Whatever else is changed, nothing outside of the bytes is read (run under ASan).
    for (size_t i = 0; i < good.size(); i++) {
        for (const char value : {'\0', '\x01', '\x7f', '\xff'}) {
            std::string bad = good;
            bad[i] = value;
            const ClockTableReader reader(bad, kGeneration);
            if (!reader.valid())
                continue;
            for (uint32_t k = 0; k < reader.size(); k++)
                (void)reader.at(k);
        }
    }
}

}  // namespace
}  // namespace mana_ai::core
