#include "mana_ai/core/record/failure_notice.hpp"

#include <gtest/gtest.h>

#include <set>

namespace mana_ai::core {
namespace {

constexpr NoticeCause kCauses[] = {NoticeCause::Failed,   NoticeCause::Encrypted,
                                   NoticeCause::Unopened, NoticeCause::Archived,
                                   NoticeCause::Budget,   NoticeCause::UserBudget};

TEST(FailureNotice, IsAFailedIterationAsClientsShowThem) {
    const FailureNotice notice = failure_notice(NoticeCause::Failed, "unreachable");
    const Instant start = *parse_instant("2026-04-15T00:00:00Z");
    const Json iteration = build_failed_iteration(notice, "it1", start, start + 1'500'000);
    EXPECT_EQ(iteration, (Json{{"id", "it1"},
                               {"startedAt", "2026-04-15T00:00:00.000Z"},
                               {"finishedAt", "2026-04-15T00:00:01.500Z"},
                               {"plan", Json::array()},
                               {"summary", notice.summary},
                               {"overallStatus", "failed"},
                               {"source", "server"},
                               {"errorDetails",
                                {{"name", "Planung auf dem Server fehlgeschlagen"},
                                 {"message", notice.message},
                                 {"phase", "calling-llm"}}}}));
    EXPECT_NE(notice.message.find("Sprachmodell ist nicht erreichbar"), std::string::npos);
}

TEST(FailureNotice, OfEachCauseIsAnother) {
    // The phases that the client has words for; none where none fits.
    const std::set<std::string> phases = {"", "resolving-inputs", "calling-llm", "finalizing"};
    std::set<std::string> titles, names;
    for (const NoticeCause cause : kCauses) {
        const FailureNotice notice = failure_notice(cause, "");
        titles.insert(notice.title);
        names.insert(name(cause));
        EXPECT_TRUE(phases.contains(notice.phase)) << notice.phase;
        EXPECT_FALSE(notice.summary.empty());
        EXPECT_NE(notice.message.find("auf diesem Gerät"), std::string::npos) << notice.title;
    }
    EXPECT_EQ(titles.size(), std::size(kCauses));
    EXPECT_EQ(names.size(), std::size(kCauses));
    const Json without =
        build_failed_iteration(failure_notice(NoticeCause::Archived, ""), "it", 0, 0);
    EXPECT_FALSE(without["errorDetails"].contains("phase"));
}

TEST(FailureNotice, TakesNothingFromOutside) {
    // A kind that we do not know is not quoted.
    const FailureNotice strange = failure_notice(NoticeCause::Failed, "<script>geheim</script>");
    EXPECT_EQ(strange.message.find("geheim"), std::string::npos);
    EXPECT_EQ(strange.message, failure_notice(NoticeCause::Failed, "").message);
    EXPECT_EQ(failure_notice(NoticeCause::Failed, "database").phase, "finalizing");
    EXPECT_EQ(failure_notice(NoticeCause::Failed, kCrashed).phase, "");
    EXPECT_NE(failure_notice(NoticeCause::Failed, kCrashed).message, strange.message);
}

TEST(FailureNotice, OfARefusedTextDoesNotSendItToTheModelAgain) {
    const FailureNotice blocked = failure_notice(NoticeCause::Failed, "blocked");
    EXPECT_EQ(blocked.message.find("auf diesem Gerät"), std::string::npos);
    EXPECT_NE(blocked.message.find("Ziel neu an"), std::string::npos);
}

}  // namespace
}  // namespace mana_ai::core
