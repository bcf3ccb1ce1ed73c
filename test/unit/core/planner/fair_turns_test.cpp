#include "mana_ai/core/planner/fair_turns.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>
#include <string>
#include <vector>

namespace mana_ai::core {
namespace {

std::vector<DueMission> missions(const std::string& user, int count, Instant first) {
    std::vector<DueMission> made;
    for (int i = 0; i < count; ++i) {
        made.push_back({user, user + std::to_string(i), first + i});
    }
    return made;
}

void add(std::vector<DueMission>& all, const std::vector<DueMission>& more) {
    all.insert(all.end(), more.begin(), more.end());
}

std::vector<std::string> names(const std::vector<DueMission>& chosen) {
    std::vector<std::string> found;
    for (const DueMission& mission : chosen) {
        found.push_back(mission.mission_id);
    }
    return found;
}

using Names = std::vector<std::string>;

TEST(FairTurns, UsersTakeTurnsAndWithinAUserTheEarliestGoesFirst) {
    FairTurns turns;
    bool held_back = true;
    std::vector<DueMission> due = missions("a", 5, 100);
    add(due, missions("b", 2, 900));
    add(due, missions("c", 1, 500));
    EXPECT_EQ(names(turns.choose(due, 6, 0, held_back)),
              (Names{"a0", "c0", "b0", "a1", "b1", "a2"}));
    EXPECT_FALSE(held_back);
}

TEST(FairTurns, WhoHasMoreRunningWaits) {
    FairTurns turns;
    bool held_back = false;
    turns.started("a");
    turns.started("a");
    std::vector<DueMission> due = missions("a", 5, 100);
    add(due, missions("b", 5, 900));
    EXPECT_EQ(names(turns.choose(due, 4, 0, held_back)), (Names{"b0", "b1", "a0", "b2"}));
    turns.ended("a");
    turns.ended("a");
    EXPECT_EQ(turns.running("a"), 0);
}

TEST(FairTurns, TheLastTurnCountsBetweenPasses) {
    FairTurns turns;
    bool held_back = false;
    const std::vector<DueMission> of_a = missions("a", 100, 0);
    std::vector<DueMission> due = of_a;
    add(due, missions("b", 1, 900));
    EXPECT_EQ(names(turns.choose(due, 1, 0, held_back)), (Names{"a0"}));
    EXPECT_EQ(names(turns.choose(due, 1, 0, held_back)), (Names{"b0"}))
        << "though all of the other one are due for longer";
}

TEST(FairTurns, NoUserExceedsItsLimit) {
    FairTurns turns;
    bool held_back = false;
    turns.started("a");
    std::vector<DueMission> due = missions("a", 5, 100);
    add(due, missions("b", 1, 900));
    EXPECT_EQ(names(turns.choose(due, 10, 3, held_back)), (Names{"b0", "a0", "a1"}));
    EXPECT_TRUE(held_back);
}

TEST(FairTurns, TheSameMissionTwiceIsOne) {
    FairTurns turns;
    bool held_back = false;
    std::vector<DueMission> due = missions("a", 2, 100);
    add(due, missions("a", 2, 100));
    EXPECT_EQ(names(turns.choose(due, 10, 0, held_back)), (Names{"a0", "a1"}));
}

TEST(FairTurns, TheRestIsGoodForSomePasses) {
    constexpr Instant kNow = 1000 * kMicrosPerSecond;
    FairTurns turns;
    bool held_back = false;
    std::vector<DueMission> due;
    for (const char* user : {"a", "b", "c", "d"}) {
        add(due, missions(user, 2, 100));
    }
    turns.looked(kNow);
    EXPECT_EQ(names(turns.choose(due, 2, 0, held_back)), (Names{"a0", "b0"}));
    auto rest = turns.take_rest(2, kNow + 1);
    EXPECT_EQ(names(rest), (Names{"a1", "b1", "c0", "c1", "d0", "d1"}));
    EXPECT_EQ(names(turns.choose(rest, 2, 0, held_back)), (Names{"c0", "d0"}));
    EXPECT_EQ(names(turns.choose(turns.take_rest(2, kNow + 2), 3, 0, held_back)),
              (Names{"a1", "b1", "c1"}));
    EXPECT_TRUE(turns.take_rest(2, kNow + 3).empty()) << "of one user: others may be due by now";
    turns.choose(due, 2, 0, held_back);
    EXPECT_TRUE(turns.take_rest(2, kNow + kMicrosPerSecond).empty()) << "it is too old";
    turns.choose(due, 2, 0, held_back);
    EXPECT_TRUE(turns.take_rest(2, kNow - 1).empty()) << "the clock was set back";
}

TEST(FairTurns, WhatOthersHaveLockedIsLeftOutForAMoment) {
    constexpr Instant kNow = 1000 * kMicrosPerSecond;
    FairTurns turns;
    turns.avoid({"a", "a0", 100}, kNow);
    std::vector<DueMission> due = missions("a", 3, 100);
    turns.leave_out_avoided(due, kNow + 1);
    EXPECT_EQ(names(due), (Names{"a1", "a2"}));
    due = missions("a", 3, 100);
    turns.leave_out_avoided(due, kNow + kMicrosPerSecond);
    EXPECT_EQ(names(due), (Names{"a0", "a1", "a2"}));
}

TEST(FairTurns, KeepsNothingOfAUserWhoIsForgotten) {
    constexpr Instant kNow = 1000 * kMicrosPerSecond;
    FairTurns turns;
    bool held_back = false;
    std::vector<DueMission> due = missions("a", 2, 100);
    add(due, missions("b", 2, 100));
    turns.looked(kNow);
    turns.cursor = "a";
    turns.avoid({"a", "a1", 100}, kNow);
    EXPECT_EQ(names(turns.choose(due, 1, 0, held_back)), (Names{"a0"}));
    turns.started("b");
    turns.forget("a");
    turns.forget("b");
    EXPECT_EQ(turns.cursor, "");
    EXPECT_EQ(turns.running("b"), 1) << "what runs is counted until it ends";
    EXPECT_TRUE(turns.take_rest(1, kNow).empty());
    due = missions("a", 2, 100);
    turns.leave_out_avoided(due, kNow);
    EXPECT_EQ(names(due), (Names{"a0", "a1"}));
}

// However many missions others have, and however long theirs take: over any time in which all have
// something due, nobody gets more than a turn ahead.
TEST(FairTurns, NobodyGetsAheadByMoreThanATurn) {
    std::mt19937 random(5);
    FairTurns turns;
    std::map<std::string, int> got;
    const std::vector<std::string> users = {"a", "b", "c", "d", "e"};
    for (int pass = 0; pass < 500; ++pass) {
        std::vector<DueMission> due;
        for (const std::string& user : users) {
            add(due, missions(user, 1 + static_cast<int>(random() % 20),
                              static_cast<Instant>(random() % 1000)));
        }
        bool held_back = false;
        for (const DueMission& mission : turns.choose(due, 1 + random() % 4, 0, held_back)) {
            got[mission.user_id]++;
        }
        int least = got["a"];
        int most = got["a"];
        for (const std::string& user : users) {
            least = std::min(least, got[user]);
            most = std::max(most, got[user]);
        }
        ASSERT_LE(most - least, 1);
    }
}

}  // namespace
}  // namespace mana_ai::core
