#include "mana_ai/core/service/deep_research.hpp"

#include <gtest/gtest.h>

#include "mana_ai/core/planner/prompts.hpp"
#include "mana_ai/core/text/json.hpp"

namespace mana_ai::core {
namespace {

TEST(DeepResearch, RequestIsThatOfThePage) {
    EXPECT_EQ(Json::parse(submit_request("Wein")),
              Json::parse(R"({"query": "Wein", "provider": "gemini-deep-research-max"})"));
}

TEST(DeepResearch, TaskPathIsEncoded) {
    EXPECT_EQ(task_path("t-1_a.b~Z"), "/api/v1/internal/research/async/t-1_a.b~Z");
    EXPECT_EQ(task_path("a/../b?c#d%"), "/api/v1/internal/research/async/a%2F..%2Fb%3Fc%23d%25");
    EXPECT_EQ(task_path("\xC3\xA4"), "/api/v1/internal/research/async/%C3%A4");
}

TEST(Submission, IsAcceptedWithATaskId) {
    const auto task = parse_submission(
        202,
        R"({"taskId": "t1", "status": "queued", "providerId": "gemini", "costCredits": 12.5})");
    ASSERT_TRUE(task);
    EXPECT_EQ(task->task_id, "t1");
    EXPECT_EQ(task->provider_id, "gemini");
    EXPECT_EQ(task->cost_credits, 12.5);
    const auto bare = parse_submission(200, R"({"taskId": "t1"})");
    ASSERT_TRUE(bare);
    EXPECT_EQ(bare->provider_id, "");
    EXPECT_FALSE(bare->cost_credits);
}

TEST(Submission, IsRefusedByAnyOtherStatusOrBody) {
    for (const int status : {0, 100, 199, 300, 302, 400, 401, 402, 429, 500, 503, -1}) {
        EXPECT_FALSE(parse_submission(status, R"({"taskId": "t1"})")) << status;
    }
    for (const char* body :
         {"", "null", "[]", "{}", "t1", "\"t1\"", "\xFF", R"({"taskId": 1})", R"({"taskId": null})",
          R"({"taskId": ""})", R"({"taskId": "a b"})", R"({"taskId": "a\n"})", R"({"taskId": "ä"})",
          R"({"taskId": "a\u0000"})", R"({"taskId": "a\u007f"})", R"({"taskId": "."})",
          R"({"taskId": ".."})", R"({"taskId": ["t1"]})"}) {
        EXPECT_FALSE(parse_submission(200, body)) << body;
    }
    EXPECT_TRUE(parse_submission(200, dump_json({{"taskId", std::string(200, 'x')}})));
    EXPECT_FALSE(parse_submission(200, dump_json({{"taskId", std::string(201, 'x')}})));
}

TEST(Submission, LeavesOutNonsenseBesideTheTaskId) {
    for (const char* cost : {"-1", "\"5\"", "null", "[]", "true"}) {
        const auto task = parse_submission(
            200, std::string(R"({"taskId": "t", "providerId": 7, "costCredits": )") + cost + "}");
        ASSERT_TRUE(task) << cost;
        EXPECT_FALSE(task->cost_credits) << cost;
        EXPECT_EQ(task->provider_id, "");
    }
    const auto task = parse_submission(
        200, dump_json({{"taskId", "t"}, {"providerId", std::string(1 << 20, 'p')}}));
    EXPECT_LE(task->provider_id.size(), 202u);
}

ResearchPoll completed(const Json& result) {
    return parse_poll(200, dump_json({{"status", "completed"}, {"result", result}}));
}

TEST(Poll, TellsWhetherTheTaskGoesOn) {
    EXPECT_EQ(parse_poll(200, R"({"status": "queued"})").status, ResearchStatus::Pending);
    EXPECT_EQ(parse_poll(200, R"({"status": "running"})").status, ResearchStatus::Pending);
    EXPECT_EQ(parse_poll(200, R"({"status": "failed", "error": "x"})").status,
              ResearchStatus::Failed);
    EXPECT_EQ(parse_poll(200, R"({"status": "cancelled"})").status, ResearchStatus::Failed);
    EXPECT_EQ(parse_poll(404, "").status, ResearchStatus::Failed);
    EXPECT_EQ(parse_poll(410, R"({"status": "running"})").status, ResearchStatus::Failed);
}

TEST(Poll, ThatCannotBeUnderstoodMayBeBetterNextTime) {
    for (const int status : {0, 301, 400, 401, 403, 429, 500, 502, 503, 504}) {
        EXPECT_EQ(parse_poll(status, R"({"status": "failed"})").status, ResearchStatus::Unreachable)
            << status;
    }
    for (const char* body :
         {"", "<html>", "null", "[]", "{}", R"({"status": 1})", R"({"status": "Done"})",
          R"({"status": "COMPLETED"})", R"({"status": "completed")", "\xFF"}) {
        EXPECT_EQ(parse_poll(200, body).status, ResearchStatus::Unreachable) << body;
    }
}

TEST(Poll, AnswerBecomesTheInput) {
    const ResearchPoll poll =
        completed({{"answer",
                    {{"query", "Wein"},
                     {"answer", "\n# Wein\nIst rot.\n"},
                     {"citations",
                      {{{"url", "https://a.de"}, {"title", "A"}, {"snippet", "s\ns"}},
                       {{"url", "x"}, {"title", "B"}},
                       7,
                       {{"url", "https://c.de"}}}}}}});
    EXPECT_EQ(poll.status, ResearchStatus::Completed);
    ASSERT_TRUE(poll.answer);
    EXPECT_EQ(poll.answer->id, "__web-research__");
    EXPECT_EQ(poll.answer->module, "news-research");
    EXPECT_EQ(poll.answer->table, "web");
    EXPECT_EQ(
        poll.answer->content,
        "# Wein\nIst rot.\n\nQuellen:\n\n"
        "1. A\n   s s\n   URL: https://a.de\n\n"
        "2. Ohne Titel\n   URL: https://c.de\n\n"
        "Nenne als Quellen ausschließlich die hier aufgeführten URLs und erfinde keine anderen.");
}

TEST(Poll, AnswerWithoutSourcesIsStillAnAnswer) {
    const ResearchPoll poll = completed({{"answer", {{"answer", "Ja."}, {"citations", "keine"}}}});
    ASSERT_EQ(poll.status, ResearchStatus::Completed);
    EXPECT_EQ(poll.answer->content,
              "Ja.\n\nNenne keine URLs, denn es sind keine Quellen aufgeführt.");
}

TEST(Poll, CompletedWithoutAnswerHasFailed) {
    for (const char* result :
         {"null", "[]", "{}", R"({"answer": null})", R"({"answer": "Text"})", R"({"answer": {}})",
          R"({"answer": {"answer": 1}})", R"({"answer": {"answer": " \n\u0000"}})"}) {
        const ResearchPoll poll = completed(Json::parse(result));
        EXPECT_EQ(poll.status, ResearchStatus::Failed) << result;
        EXPECT_FALSE(poll.answer);
    }
    EXPECT_EQ(parse_poll(200, R"({"status": "completed"})").status, ResearchStatus::Failed);
}

TEST(Poll, AnswerLeavesRoomForTheClosingSentence) {
    Json citations = Json::array();
    for (int i = 0; i < 200; ++i) {
        citations.push_back({{"url", "https://a.de/" + std::string(2000, 'u')},
                             {"title", std::string(1000, 't')},
                             {"snippet", std::string(5000, 's')}});
    }
    const ResearchPoll poll =
        completed({{"answer", {{"answer", std::string(1 << 20, 'x')}, {"citations", citations}}}});
    ASSERT_TRUE(poll.answer);
    EXPECT_LE(poll.answer->content.size(), PromptLimits::all_inputs);
    EXPECT_TRUE(poll.answer->content.ends_with("erfinde keine anderen."));
    EXPECT_EQ(poll.answer->content.find(std::string(kMaxResearchAnswer, 'x')), std::string::npos);
    EXPECT_TRUE(poll.answer->content.starts_with(std::string(kMaxResearchAnswer - 1, 'x') + "…\n"));
}

TEST(Poll, ListsAtMostFiftySources) {
    Json citations = Json::array();
    for (int i = 1; i <= 60; ++i) {
        citations.push_back({{"url", "https://a.de/" + std::to_string(i)}});
    }
    const ResearchPoll poll = completed({{"answer", {{"answer", "x"}, {"citations", citations}}}});
    EXPECT_NE(poll.answer->content.find("https://a.de/50\n"), std::string::npos);
    EXPECT_EQ(poll.answer->content.find("https://a.de/51\n"), std::string::npos);
}

TEST(ResearchJob, StatesHaveNames) {
    EXPECT_STREQ(name(ResearchJobState::Waiting), "waiting");
    EXPECT_STREQ(name(ResearchJobState::Ready), "ready");
    EXPECT_EQ(research_job_state_from_name("waiting"), ResearchJobState::Waiting);
    EXPECT_EQ(research_job_state_from_name("ready"), ResearchJobState::Ready);
    EXPECT_FALSE(research_job_state_from_name("Ready"));
}

// ---------------------------------------------------------------- the table of the page

constexpr Instant kMinute = 60'000'000;

ResearchSituation job_polled(std::optional<ResearchStatus> poll) {
    return {.gates_open = true,
            .has_job = true,
            .has_task_id = true,
            .poll = poll,
            .age = kMinute,
            .timeout = 90 * kMinute,
            .times_offered = 0};
}

TEST(ResearchSteps, WithoutJobDependOnTheGates) {
    EXPECT_EQ(next_research_step({.gates_open = true}), ResearchStep::Submit);
    EXPECT_EQ(next_research_step({.gates_open = false}), ResearchStep::PlanShallow);
}

TEST(ResearchSteps, AskBeforeAnythingIsDecided) {
    EXPECT_EQ(next_research_step(job_polled(std::nullopt)), ResearchStep::Poll);
}

TEST(ResearchSteps, FollowThePoll) {
    EXPECT_EQ(next_research_step(job_polled(ResearchStatus::Pending)), ResearchStep::Wait);
    EXPECT_EQ(next_research_step(job_polled(ResearchStatus::Unreachable)), ResearchStep::Wait);
    EXPECT_EQ(next_research_step(job_polled(ResearchStatus::Failed)), ResearchStep::PlanShallow);
    EXPECT_EQ(next_research_step(job_polled(ResearchStatus::Completed)), ResearchStep::UseAnswer);
}

TEST(ResearchSteps, NeverSubmitAnIntentAgain) {
    for (const bool gates_open : {true, false}) {
        EXPECT_EQ(
            next_research_step({.gates_open = gates_open, .has_job = true, .has_task_id = false}),
            ResearchStep::PlanShallow);
    }
}

TEST(ResearchSteps, FollowAPaidJobWhenTheGatesAreClosedMeanwhile) {
    for (const auto poll :
         {std::optional<ResearchStatus>(), std::optional(ResearchStatus::Pending),
          std::optional(ResearchStatus::Completed), std::optional(ResearchStatus::Unreachable)}) {
        ResearchSituation closed = job_polled(poll);
        closed.gates_open = false;
        EXPECT_EQ(next_research_step(closed), next_research_step(job_polled(poll)));
    }
}

TEST(ResearchSteps, GiveUpAfterTheTimeout) {
    for (const auto poll : {ResearchStatus::Pending, ResearchStatus::Unreachable}) {
        ResearchSituation old = job_polled(poll);
        old.age = old.timeout;
        EXPECT_EQ(next_research_step(old), ResearchStep::Wait);
        old.age = old.timeout + 1;
        EXPECT_EQ(next_research_step(old), ResearchStep::PlanShallow);
        old.age = -kMinute;  // the clock was set back
        EXPECT_EQ(next_research_step(old), ResearchStep::Wait);
    }
}

TEST(ResearchSteps, UseAnAnswerThatComesLate) {
    ResearchSituation late = job_polled(ResearchStatus::Completed);
    late.age = 10 * late.timeout;
    EXPECT_EQ(next_research_step(late), ResearchStep::UseAnswer);
    late.poll.reset();
    EXPECT_EQ(next_research_step(late), ResearchStep::Poll);
}

TEST(ResearchSteps, OfferAnAnswerThreeTimes) {
    ResearchSituation situation = job_polled(ResearchStatus::Completed);
    situation.times_offered = 2;
    EXPECT_EQ(next_research_step(situation), ResearchStep::UseAnswer);
    situation.times_offered = 3;
    EXPECT_EQ(next_research_step(situation), ResearchStep::PlanShallow);
    situation.poll.reset();  // not worth asking for
    EXPECT_EQ(next_research_step(situation), ResearchStep::PlanShallow);
}

}  // namespace
}  // namespace mana_ai::core
