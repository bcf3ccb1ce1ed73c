#include "mana_ai/core/record/mission_problems.hpp"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace mana_ai::core {
namespace {

using Type = FieldValue::Type;

const Instant kNow = *parse_instant("2026-03-02T12:00Z");

MissionFields sound() {
    MissionFields fields;
    fields.title = fields.objective = {Type::String, "x"};
    fields.state = {Type::String, "active"};
    fields.inputs = fields.iterations = {Type::Array, {}};
    fields.cadence.value = Cadence::Value::Object;
    fields.cadence.kind = "manual";
    return fields;
}

std::vector<std::string> problems_of(const MissionFields& fields) {
    MissionProblems found;
    find_mission_problems(fields, kNow, found);
    std::vector<std::string> texts;
    for (std::size_t i = 0; i < found.size(); ++i) {
        texts.emplace_back(found[i]);
    }
    return texts;
}

using Texts = std::vector<std::string>;

TEST(MissionProblems, SoundRecordsHaveNone) {
    EXPECT_EQ(problems_of(sound()), Texts{});
    MissionFields fields = sound();
    fields.next_run_at = {Type::String, "2026-03-02T12:00:00.000Z"};
    fields.agent_id = {Type::Null, {}};
    EXPECT_EQ(problems_of(fields), Texts{});
}

TEST(MissionProblems, AFragmentHasNeitherTitleNorObjective) {
    const FieldValue missing, null = {Type::Null, {}}, empty = {Type::String, {}};
    for (const FieldValue& nothing : {missing, null, empty}) {
        EXPECT_TRUE(is_fragment(nothing, nothing));
        // What is there and wrong is a problem of its own.
        for (const FieldValue& something :
             {FieldValue{Type::String, "x"}, FieldValue{Type::Other, {}}}) {
            EXPECT_FALSE(is_fragment(something, nothing));
            EXPECT_FALSE(is_fragment(nothing, something));
        }
    }
}

TEST(MissionProblems, NamesWrongTypes) {
    MissionFields fields = sound();
    fields.title = fields.state = fields.agent_id = {Type::Other, {}};
    fields.objective = {Type::Array, {}};
    fields.inputs = {Type::String, "all"};
    fields.iterations = {Type::Other, {}};
    fields.next_run_at = {Type::String, "2026-02-30T00:00:00Z"};
    EXPECT_EQ(problems_of(fields),
              (Texts{"title is not a string", "objective is not a string", "state is not a string",
                     "nextRunAt is not an instant", "inputs is not an array",
                     "iterations is not an array", "agentId is not a string"}));
}

TEST(MissionProblems, AtRestOnlyWhatIsMissingCounts) {
    MissionFields fields = sound();
    fields.state.text = "paused";
    fields.next_run_at = {Type::String, "soon"};
    fields.cadence.kind = "hourly";
    EXPECT_EQ(problems_of(fields), Texts{});
    fields.objective = {Type::Null, {}};
    fields.cadence = {};
    EXPECT_EQ(problems_of(fields), (Texts{"objective is missing", "cadence is missing"}));
    EXPECT_EQ(problems_of(MissionFields{}), (Texts{"title and objective are missing: not scheduled",
                                                   "state is missing", "cadence is missing"}));
}

TEST(MissionProblems, EmptyTextsAreNoMission) {
    MissionFields fields = sound();
    fields.title = {Type::String, ""};
    EXPECT_EQ(problems_of(fields), Texts{});
    fields.objective = {Type::String, ""};
    EXPECT_EQ(problems_of(fields), Texts{"title and objective are missing: not scheduled"});
}

TEST(MissionProblems, NamesACadenceThatCannotBeFollowed) {
    MissionFields fields = sound();
    fields.cadence.kind = "cron";
    fields.cadence.expression = "0 8 30 2 *";
    EXPECT_EQ(problems_of(fields), Texts{"cadence never matches again"});
    for (const char* expression : {"0 8 29 2 *", "0 8 30 2 1", "0 8 31 2-3 *", "0 8 29 2 */7"}) {
        fields.cadence.expression = expression;
        EXPECT_EQ(problems_of(fields), Texts{}) << expression;
    }
    fields.cadence.expression.reset();
    EXPECT_EQ(problems_of(fields), Texts{"\"expression\" of the cadence must be a string"});
    fields.cadence.value = Cadence::Value::Other;
    EXPECT_EQ(problems_of(fields), Texts{"cadence must be an object"});
}

TEST(MissionProblems, LongTextsAndManyOfThemAreCut) {
    MissionProblems found;
    for (int i = 0; i < 20; ++i) {
        found.add(std::string(200, 'x'), "y");
    }
    EXPECT_EQ(found.size(), MissionProblems::kMax);
    EXPECT_EQ(found[0], std::string(95, 'x'));
}

}  // namespace
}  // namespace mana_ai::core
