#include "mana_ai/core/record/plan_basis.hpp"

#include <gtest/gtest.h>

#include <set>

#include "mana_ai/core/record/iteration.hpp"

namespace mana_ai::core {
namespace {

Json mission_record() {
    return Json::parse(R"({"id": "m1", "title": "T", "objective": "O", "conceptMarkdown": "C",
        "state": "active", "cadence": {"kind": "daily", "atHour": 7, "atMinute": 0},
        "agentId": "a1", "iterations": []})");
}

Agent agent() {
    return parse_agent(Json::parse(R"({"id": "a1", "name": "Nora", "role": "Coach",
        "systemPrompt": "P", "memory": "M", "maxTokensPerDay": 100,
        "policy": {"tools": {"t": "propose"}, "defaultForAi": "propose"}})"));
}

const std::vector<InputVersion> kInputs = {{{"notes", "notes", "n1"}, "v1"},
                                           {{"goals", "goals", "g1"}, "v2"}};

std::string basis(const Json& record, const Agent& with = agent(),
                  const std::vector<InputVersion>& inputs = kInputs,
                  std::string_view model = "m/1") {
    return plan_basis(parse_mission(record), &with, inputs, model);
}

Json with_iterations(Json iterations) {
    Json record = mission_record();
    record["iterations"] = std::move(iterations);
    return record;
}

Json written_by_server(bool with_steps = true) {
    std::vector<PlanStep> steps;
    if (with_steps) {
        steps = {{"A", "t", Json::object()}, {"B", "t", Json::object()}};
    }
    return build_iteration({"it1", 0, 1, steps, "S"});
}

TEST(PlanBasis, IsTheSameForTheSame) {
    EXPECT_EQ(basis(mission_record()), basis(mission_record()));
}

TEST(PlanBasis, DoesNotDependOnTheOrderOfKeys) {
    const Json cadence = Json::parse(R"({"kind":"daily","atHour":7,"atMinute":0})");
    const Json reordered = Json::parse(R"({"atMinute":0,"kind":"daily","atHour":7})");
    Json one = mission_record();
    Json other = mission_record();
    one["cadence"] = cadence;
    other["cadence"] = reordered;
    EXPECT_EQ(basis(one), basis(other));
}

TEST(PlanBasis, ChangesWithEverythingThatAPlanIsBasedOn) {
    std::set<std::string> seen = {basis(mission_record())};
    const auto is_new = [&](const std::string& text) { return seen.insert(text).second; };
    for (const char* key : {"title", "objective", "conceptMarkdown", "agentId"}) {
        Json record = mission_record();
        record[key] = "anders";
        EXPECT_TRUE(is_new(basis(record))) << key;
    }
    Json record = mission_record();
    record["cadence"]["atHour"] = 8;
    EXPECT_TRUE(is_new(basis(record)));

    const auto change = [&](auto&& edit) {
        Agent changed = agent();
        edit(changed);
        return is_new(basis(mission_record(), changed));
    };
    EXPECT_TRUE(change([](Agent& a) { a.id = "a2"; }));
    EXPECT_TRUE(change([](Agent& a) { a.name = "N"; }));
    EXPECT_TRUE(change([](Agent& a) { a.role = "R"; }));
    EXPECT_TRUE(change([](Agent& a) { a.state = "x"; }));
    EXPECT_TRUE(change([](Agent& a) { a.system_prompt.reset(); }));
    EXPECT_TRUE(change([](Agent& a) { a.system_prompt = "P2"; }));
    EXPECT_TRUE(change([](Agent& a) { a.memory = "M2"; }));
    EXPECT_TRUE(change([](Agent& a) { a.policy.tools["t"] = Decision::Deny; }));
    EXPECT_TRUE(change([](Agent& a) { a.policy.defaults_by_module["t"] = Decision::Deny; }));
    EXPECT_TRUE(change([](Agent& a) { a.policy.default_for_ai = Decision::Deny; }));
    EXPECT_TRUE(change([](Agent& a) { a.max_concurrent_missions = 2; }));
    EXPECT_TRUE(change([](Agent& a) { a.max_tokens_per_day = 0; }));
    EXPECT_TRUE(change([](Agent& a) { a.max_tokens_per_day.reset(); }));
    EXPECT_TRUE(is_new(plan_basis(parse_mission(mission_record()), nullptr, kInputs, "m/1")));

    EXPECT_TRUE(is_new(basis(mission_record(), agent(), {})));
    EXPECT_TRUE(is_new(basis(mission_record(), agent(), {kInputs[1], kInputs[0]})));
    EXPECT_TRUE(
        is_new(basis(mission_record(), agent(), {kInputs[0], {kInputs[1].reference, "v3"}})));
    EXPECT_TRUE(is_new(basis(mission_record(), agent(), kInputs, "m/2")));
}

TEST(PlanBasis, DoesNotMistakeOneFieldForAnother) {
    Json one = mission_record();
    one["title"] = "a\",\"objective\":\"b";
    one["objective"] = "c";
    Json other = mission_record();
    other["title"] = "a";
    other["objective"] = "b\",\"x\":\"c";
    EXPECT_NE(basis(one), basis(other));
    EXPECT_NE(basis(mission_record(), agent(), {{{"ab", "c", "d"}, "e"}}),
              basis(mission_record(), agent(), {{{"a", "bc", "d"}, "e"}}));
}

TEST(PlanBasis, IsTheSameBeforeAndAfterAWriteBack) {
    const std::string before = basis(mission_record());
    Json record = with_iterations({written_by_server(), written_by_server(false)});
    record["nextRunAt"] = "2026-04-16T05:00:00.000Z";
    record["updatedAt"] = "2026-04-15T05:00:00.000Z";
    EXPECT_EQ(basis(record), before);
    record["iterations"][0]["userFeedback"] = "";  // nothing was said
    record["iterations"][0]["feedback"] = nullptr;
    EXPECT_EQ(basis(record), before);
}

TEST(PlanBasis, ChangesWithWhatTheUserMakesOfAnIteration) {
    std::set<std::string> seen = {basis(mission_record())};
    const auto changes_basis = [&](auto&& edit, bool with_steps = true) {
        Json iteration = written_by_server(with_steps);
        edit(iteration);
        return seen.insert(basis(with_iterations({iteration}))).second;
    };
    EXPECT_TRUE(changes_basis([](Json& i) { i["userFeedback"] = "Mehr davon"; }));
    EXPECT_TRUE(changes_basis([](Json& i) { i["userFeedback"] = "Weniger"; }));
    EXPECT_TRUE(changes_basis([](Json& i) { i["feedback"] = "Weniger"; }));
    EXPECT_TRUE(changes_basis([](Json& i) { i["userFeedback"] = {{"text", "x"}}; }));
    EXPECT_TRUE(changes_basis([](Json& i) { i["overallStatus"] = "approved"; }));
    EXPECT_TRUE(changes_basis([](Json& i) { i["overallStatus"] = "rejected"; }));
    EXPECT_TRUE(changes_basis([](Json& i) { i.erase("overallStatus"); }));
    EXPECT_TRUE(changes_basis([](Json& i) { i["overallStatus"] = "awaiting-review"; }, false));
    EXPECT_TRUE(changes_basis([](Json& i) { i["plan"][1]["status"] = "rejected"; }));
    EXPECT_TRUE(changes_basis([](Json& i) { i["plan"][0]["status"] = "rejected"; }));
    EXPECT_TRUE(changes_basis([](Json& i) { i["plan"][0].erase("status"); }));
    EXPECT_TRUE(changes_basis([](Json& i) { i["plan"] = nullptr; }));
    EXPECT_TRUE(changes_basis([](Json& i) { i["source"] = "browser"; }));
    EXPECT_TRUE(changes_basis([](Json& i) { i["id"] = "it2", i["source"] = "browser"; }));
}

TEST(PlanBasis, TakesIterationsOfAnyShape) {
    const Json hostile = Json::parse(R"([null, 1, "x", [], {}, {"plan": {}}, {"plan": [null, 1]},
        {"plan": [{"status": {"deep": [1]}}], "userFeedback": [[]], "id": {}}])");
    EXPECT_NE(basis(with_iterations(hostile)), basis(mission_record()));
    EXPECT_EQ(basis(with_iterations({nullptr, 1, "x"})), basis(mission_record()));
    Json record = mission_record();
    record["title"] = "\xFF";
    record["objective"] = std::string(1 << 20, 'x');
    EXPECT_EQ(basis(record), basis(record));
    EXPECT_FALSE(plan_basis(Mission(), nullptr, {}, "").empty());
}

TEST(Recurring, IsWhatRepeats) {
    for (const char* kind : {"interval", "daily", "weekly", "cron"}) {
        EXPECT_TRUE(is_recurring({{"kind", kind}})) << kind;
    }
    EXPECT_FALSE(is_recurring({{"kind", "manual"}}));
    EXPECT_FALSE(is_recurring({{"kind", "Daily"}}));
    EXPECT_FALSE(is_recurring({{"kind", 1}}));
    for (const char* cadence : {"null", "{}", "[]", "\"daily\"", "1"}) {
        EXPECT_FALSE(is_recurring(Json::parse(cadence))) << cadence;
    }
}

}  // namespace
}  // namespace mana_ai::core
