#include "mana_ai/core/record/iteration_progress.hpp"

#include <gtest/gtest.h>

#include <random>
#include <string>
#include <vector>

namespace mana_ai::core {
namespace {

Json iteration(const std::vector<std::string>& statuses, const std::string& overall,
               const std::string& feedback = "") {
    Json plan = Json::array();
    for (const std::string& status : statuses)
        plan.push_back({{"id", "i-" + std::to_string(plan.size())}, {"status", status}});
    Json made = {{"id", "i"}, {"plan", plan}, {"overallStatus", overall}};
    if (!feedback.empty())
        made["userFeedback"] = feedback;
    return made;
}

// The iteration with what is lost put back.
Json restored(Json held, const std::vector<Json>& others) {
    if (const auto lost = lost_progress(held, others))
        held.update(*lost);
    return held;
}

TEST(IterationProgress, NothingIsLostWithoutProgress) {
    const Json waiting = iteration({"planned", "staged"}, "awaiting-review");
    EXPECT_EQ(lost_progress(waiting, {}), std::nullopt);
    EXPECT_EQ(lost_progress(waiting, {waiting, iteration({"staged", "planned"}, "running")}),
              std::nullopt);
    const Json done = iteration({"approved", "failed"}, "approved", "Gut");
    EXPECT_EQ(lost_progress(done, {waiting, iteration({"rejected", "approved"}, "failed", "Alt")}),
              std::nullopt);
}

TEST(IterationProgress, StepsThatWereCarriedOutComeBack) {
    const Json done = iteration({"approved", "failed"}, "approved");
    EXPECT_EQ(restored(iteration({"planned", "planned"}, "awaiting-review"), {done}), done);
    EXPECT_EQ(restored(iteration({"staged", "planned"}, "awaiting-review"), {done}), done);
    // A step that was decided stays as it is, and so does a verdict.
    EXPECT_EQ(restored(iteration({"rejected", "planned"}, "rejected"), {done}),
              iteration({"rejected", "failed"}, "rejected"));
}

TEST(IterationProgress, StepsOfDifferentDevicesAreJoined) {
    EXPECT_EQ(restored(iteration({"planned", "planned", "planned"}, "awaiting-review"),
                       {iteration({"planned", "approved", "rejected"}, "approved"),
                        iteration({"approved", "failed", "failed"}, "failed")}),
              iteration({"approved", "approved", "rejected"}, "approved"));
}

TEST(IterationProgress, TheNewestFeedbackComesBack) {
    const Json waiting = iteration({"planned"}, "awaiting-review");
    EXPECT_EQ(restored(waiting, {waiting, iteration({"planned"}, "awaiting-review", "Neu"),
                                 iteration({"planned"}, "awaiting-review", "Alt")}),
              iteration({"planned"}, "awaiting-review", "Neu"));
    EXPECT_EQ(restored(waiting, {iteration({"approved"}, "approved"),
                                 iteration({"planned"}, "awaiting-review", "Alt")}),
              iteration({"approved"}, "approved", "Alt"));
}

TEST(IterationProgress, OnlyTheSameStepsBelongTogether) {
    Json other = iteration({"approved", "approved"}, "approved");
    other["plan"][0]["id"] = "another";
    other["plan"][1].erase("id");
    const Json waiting = iteration({"planned", "planned"}, "awaiting-review");
    EXPECT_EQ(lost_progress(waiting, {other}), std::nullopt);
    EXPECT_EQ(restored(waiting, {iteration({"approved"}, "approved")}),
              iteration({"approved", "planned"}, "approved"));
    EXPECT_EQ(restored(iteration({"planned"}, "awaiting-review"),
                       {iteration({"approved", "approved"}, "approved")}),
              iteration({"approved"}, "approved"));
}

TEST(IterationProgress, AnythingMayBeInARecord) {
    const Json waiting = iteration({"planned"}, "awaiting-review");
    for (const Json& odd : {Json(), Json(1), Json("x"), Json::array({1, 2}), Json::object(),
                            Json{{"plan", 1}, {"userFeedback", {{"a", 1}}}},
                            Json{{"plan", {1, nullptr, {{"id", "i-0"}}}}, {"overallStatus", 5}}}) {
        EXPECT_FALSE(lost_progress(odd, {waiting}) && !odd.is_object());
        const auto lost = lost_progress(waiting, {odd});
        EXPECT_TRUE(!lost || lost->is_object());
    }
    // A step without a status has been dealt with in some way.
    EXPECT_EQ((*lost_progress(waiting, {Json{{"plan", {{{"id", "i-0"}}}}}}))["plan"],
              Json::array({Json{{"id", "i-0"}}}));
}

// Restoring is complete: what was put back has lost nothing, whatever is in the versions.
TEST(IterationProgress, IsCompleteAfterOnePass) {
    std::mt19937 random(4711);
    const std::vector<std::string> kinds = {"planned", "staged", "approved", "rejected", "failed"};
    auto any = [&] {
        std::vector<std::string> statuses(random() % 5);
        for (std::string& status : statuses)
            status = kinds[random() % kinds.size()];
        return iteration(statuses, random() % 2 ? "awaiting-review" : "approved",
                         random() % 3 ? "" : "F" + std::to_string(random() % 9));
    };
    for (int i = 0; i < 5000; i++) {
        std::vector<Json> others(random() % 4);
        for (Json& other : others)
            other = any();
        const Json held = any();
        const Json after = restored(held, others);
        EXPECT_EQ(lost_progress(after, others), std::nullopt);
        for (size_t n = 0; n < held["plan"].size(); n++) {
            if (!is_open_step(held["plan"][n]["status"].get<std::string>())) {
                EXPECT_EQ(after["plan"][n], held["plan"][n]);
            }
        }
    }
}

}  // namespace
}  // namespace mana_ai::core
