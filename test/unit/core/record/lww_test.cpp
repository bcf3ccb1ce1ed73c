#include "mana_ai/core/record/lww.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

namespace mana_ai::core {
namespace {

FieldClock clock(Instant time, Instant row_time, WriteRank rank, uint64_t position) {
    return {time, row_time, rank, position};
}

TEST(Lww, ATieIsWhatOnlyPlacesTellApart) {
    const FieldClock held = clock(10, 20, WriteRank::Change, 5);
    EXPECT_TRUE(is_tie(clock(10, 20, WriteRank::Change, 6), held));
    EXPECT_TRUE(is_tie(clock(10, 20, WriteRank::Change, 0), held));
    EXPECT_FALSE(is_tie(clock(11, 20, WriteRank::Change, 5), held));
    EXPECT_FALSE(is_tie(clock(10, 21, WriteRank::Change, 5), held));
    EXPECT_FALSE(is_tie(clock(10, 20, WriteRank::Insert, 5), held));
    EXPECT_FALSE(is_tie(clearing_clock(10), clearing_clock(10)));
}

TEST(Lww, LaterFieldTimeWinsWhateverTheRowTime) {
    const FieldClock early = clock(10, 99, WriteRank::Change, 9);
    const FieldClock late = clock(11, 1, WriteRank::Insert, 1);
    EXPECT_EQ(precedence(late, early), Precedence::Newer);
    EXPECT_EQ(precedence(early, late), Precedence::Older);
}

TEST(Lww, EqualTimesGoToTheLaterRowThenToChangesThenToPhysicalOrder) {
    const FieldClock held = clock(10, 20, WriteRank::Insert, 5);
    EXPECT_EQ(precedence(clock(10, 21, WriteRank::Insert, 1), held), Precedence::Newer);
    EXPECT_EQ(precedence(clock(10, 19, WriteRank::Change, 9), held), Precedence::Older);
    EXPECT_EQ(precedence(clock(10, 20, WriteRank::Change, 1), held), Precedence::Newer);
    EXPECT_EQ(precedence(clock(10, 20, WriteRank::Insert, 6), held), Precedence::Newer);
    EXPECT_EQ(precedence(clock(10, 20, WriteRank::Insert, 4), held), Precedence::Older);
}

TEST(Lww, TheSameWriteIsRecognised) {
    const FieldClock held = clock(10, 20, WriteRank::Change, 5);
    EXPECT_EQ(precedence(held, held), Precedence::Same);
}

TEST(Lww, ATieWithAnUnknownPlaceIsUndecided) {
    const FieldClock held = clock(10, 20, WriteRank::Change, 0);
    EXPECT_EQ(precedence(clock(10, 20, WriteRank::Change, 5), held), Precedence::Unknown);
    EXPECT_EQ(precedence(held, held), Precedence::Unknown);
    EXPECT_EQ(precedence(clock(11, 20, WriteRank::Change, 5), held), Precedence::Newer);
}

TEST(Lww, ClearingLosesToEveryRealWriteOfItsTime) {
    const FieldClock clearing = clearing_clock(10);
    EXPECT_EQ(precedence(clearing, clock(10, kOlderThanEverything, WriteRank::Insert, 1)),
              Precedence::Older);
    EXPECT_EQ(precedence(clearing, clock(9, 50, WriteRank::Change, 1)), Precedence::Newer);
    EXPECT_EQ(precedence(clearing, clearing), Precedence::Same);
}

// Any order of arrival ends with the same winner: the order is total.
TEST(Lww, TheOrderIsTotal) {
    std::vector<FieldClock> clocks;
    for (const Instant time : {kOlderThanEverything, Instant{1}, Instant{2}}) {
        clocks.push_back(clearing_clock(time));
        for (const Instant row_time : {Instant{1}, Instant{2}})
            for (const WriteRank rank : {WriteRank::Insert, WriteRank::Change})
                for (const uint64_t position : {1, 2})
                    clocks.push_back(clock(time, row_time, rank, position));
    }
    auto older = [](const FieldClock& a, const FieldClock& b) {
        return precedence(a, b) == Precedence::Older;
    };
    for (const FieldClock& a : clocks)
        for (const FieldClock& b : clocks) {
            EXPECT_EQ(older(a, b), precedence(b, a) == Precedence::Newer);
            EXPECT_EQ(precedence(a, b) == Precedence::Same, a == b);
            for (const FieldClock& c : clocks)
                EXPECT_TRUE(!older(a, b) || !older(b, c) || older(a, c));
        }
}

TEST(Lww, AnUnstampedFieldOfAnInsertHasTheRecordsTime) {
    RowTimes row{RowOp::Insert, 100, 7, 5};
    EXPECT_EQ(unstamped_time(row), 7);
    row.updated_at_field.reset();
    EXPECT_EQ(unstamped_time(row), 5);
    row.created_at_field.reset();
    EXPECT_EQ(unstamped_time(row), kOlderThanEverything);
}

TEST(Lww, AnUnstampedFieldOfAChangeHasTheRowsTime) {
    EXPECT_EQ(unstamped_time({RowOp::Update, 100, 7, 5}), 100);
    EXPECT_EQ(unstamped_time({RowOp::Delete, 100, {}, {}}), 100);
}

TEST(Lww, UnknownOperationsChangeFields) {
    EXPECT_EQ(parse_row_op("insert"), RowOp::Insert);
    EXPECT_EQ(parse_row_op("delete"), RowOp::Delete);
    EXPECT_EQ(parse_row_op("update"), RowOp::Update);
    EXPECT_EQ(parse_row_op(""), RowOp::Update);
    EXPECT_EQ(parse_row_op("INSERT"), RowOp::Update);
}

TEST(Lww, IdAndBookkeepingAreIgnored) {
    EXPECT_TRUE(is_ignored_field("id"));
    EXPECT_TRUE(is_ignored_field("__"));
    EXPECT_TRUE(is_ignored_field("__dirty"));
    EXPECT_FALSE(is_ignored_field("_id"));
    EXPECT_FALSE(is_ignored_field("Id"));
    EXPECT_FALSE(is_ignored_field(""));
}

TEST(Lww, NamesWithDotsArePaths) {
    EXPECT_TRUE(is_path("cadence.atHour"));
    EXPECT_FALSE(is_path("cadence"));
    EXPECT_EQ(head_of("grant.derivation.recordIds"), "grant");
    EXPECT_EQ(head_of("grant"), "grant");
    EXPECT_EQ(head_of(".a"), "");
}

TEST(Lww, IdAndDeletedAtHaveNoParts) {
    EXPECT_TRUE(is_ignored_field("id.x"));
    EXPECT_TRUE(is_ignored_field("deletedAt.x"));
    EXPECT_FALSE(is_ignored_field("deletedAt"));
    EXPECT_FALSE(is_ignored_field("ids.x"));
    EXPECT_FALSE(is_ignored_field("a.id"));
    std::string path = "a";
    for (int parts = 1; parts < kMaxPathParts; parts++)
        path += ".a";
    EXPECT_FALSE(is_ignored_field(path));
    EXPECT_TRUE(is_ignored_field(path + ".a"));
}

TEST(Lww, OfEqualClocksThePartWinsWhereverItsRowIs) {
    const FieldClock whole{5, 5, WriteRank::Change, 9};
    EXPECT_FALSE(is_overwritten({5, 5, WriteRank::Change, 1}, whole));
    EXPECT_FALSE(is_overwritten({5, 5, WriteRank::Change, 0}, whole));
    EXPECT_TRUE(is_overwritten({5, 5, WriteRank::Insert, 10}, whole));
    EXPECT_TRUE(is_overwritten({5, 4, WriteRank::Change, 10}, whole));
    EXPECT_TRUE(is_overwritten({4, 6, WriteRank::Change, 10}, whole));
    EXPECT_FALSE(is_overwritten({6, 4, WriteRank::Insert, 1}, whole));
}

}  // namespace
}  // namespace mana_ai::core
