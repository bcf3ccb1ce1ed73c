#include "mana_ai/core/record/mission_input.hpp"
#include "mana_ai/core/text/utf8.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>

#include "../freed_memory.hpp"
#include "mana_ai/core/text/wipe.hpp"

namespace mana_ai::core {
namespace {

std::size_t count_chars(std::string_view text) {
    return static_cast<std::size_t>(
        std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xC0) != 0x80; }));
}

std::string repeated(std::string_view text, int times) {
    std::string all;
    for (int i = 0; i < times; ++i) {
        all += text;
    }
    return all;
}

ResolvedInput render(const char* module, const Json& record) {
    return render_input({module, "table", "id1"}, *built_in_module(module), record);
}

// ---------------------------------------------------------------- references

TEST(InputReferences, AreReadInOrder) {
    const Json inputs = Json::parse(R"([
        {"module": "notes", "table": "notes", "id": "n1"},
        {"module": "goals", "table": "companionGoals", "id": "g1", "more": 1}])");
    EXPECT_EQ(
        input_references(inputs),
        (std::vector<InputReference>{{"notes", "notes", "n1"}, {"goals", "companionGoals", "g1"}}));
}

TEST(InputReferences, LeaveOutWhatIsNoReference) {
    const Json inputs = Json::parse(R"([null, 1, "x", [], {}, {"module": "notes", "table": "notes"},
        {"module": "", "table": "t", "id": "i"}, {"module": "m", "table": "", "id": "i"},
        {"module": "m", "table": "t", "id": ""}, {"module": 1, "table": "t", "id": "i"},
        {"module": "m", "table": null, "id": "i"}, {"module": "m", "table": "t", "id": {}},
        {"module": "m\n", "table": "t", "id": "i"}, {"module": "m", "table": "t\u007f", "id": "i"},
        {"module": "m", "table": "t", "id": "\u0000"}])");
    EXPECT_TRUE(input_references(inputs).empty());
    for (const char* text : {"null", "{}", "1", R"("x")"}) {
        EXPECT_TRUE(input_references(Json::parse(text)).empty()) << text;
    }
    const Json invalid = Json::array({{{"module", "m"}, {"table", "t"}, {"id", "\xFF"}}});
    EXPECT_TRUE(input_references(invalid).empty());
}

TEST(InputReferences, LimitTheLengthOfEachPart) {
    const auto with_id = [](std::size_t size) {
        return Json::array({{{"module", "m"}, {"table", "t"}, {"id", std::string(size, 'x')}}});
    };
    EXPECT_EQ(input_references(with_id(512)).size(), 1u);
    EXPECT_TRUE(input_references(with_id(513)).empty());
    EXPECT_TRUE(input_references(with_id(1 << 20)).empty());
}

TEST(InputReferences, NameARecordOnceWhereItWasMentionedLast) {
    const Json inputs = Json::parse(R"([
        {"module": "m", "table": "t", "id": "1"}, {"module": "m", "table": "t", "id": "2"},
        {"module": "m", "table": "t", "id": "1"}, {"module": "m", "table": "t2", "id": "2"}])");
    EXPECT_EQ(input_references(inputs),
              (std::vector<InputReference>{{"m", "t", "2"}, {"m", "t", "1"}, {"m", "t2", "2"}}));
}

TEST(InputReferences, KeepTheNewest) {
    Json inputs = Json::array();
    for (int i = 0; i < 1000; ++i) {
        inputs.push_back({{"module", "m"}, {"table", "t"}, {"id", std::to_string(i)}});
        inputs.push_back(i);  // what is no reference takes no place
    }
    const std::vector<InputReference> references = input_references(inputs);
    ASSERT_EQ(references.size(), kMaxInputs);
    EXPECT_EQ(references.front().id, "800");
    EXPECT_EQ(references.back().id, "999");
}

// ---------------------------------------------------------------- modules

TEST(InputModules, AreThoseOfThePage) {
    const struct {
        const char* name;
        const char* app_id;
        bool may_be_encrypted;
    } expected[] = {{"goals", "companion", false},  {"notes", "notes", true},
                    {"tasks", "todo", true},        {"todo", "todo", true},
                    {"calendar", "calendar", true}, {"journal", "journal", true},
                    {"kontext", "kontext", true},   {"profile", "profile", true}};
    for (const auto& [name, app_id, may_be_encrypted] : expected) {
        const InputModule* module = built_in_module(name);
        ASSERT_NE(module, nullptr) << name;
        EXPECT_EQ(module->name, name);
        EXPECT_EQ(module->app_id, app_id) << name;
        EXPECT_EQ(module->may_be_encrypted, may_be_encrypted) << name;
        EXPECT_FALSE(module->fields.empty()) << name;
    }
    for (const char* name : {"", "Notes", "note", "web", "goals "}) {
        EXPECT_EQ(built_in_module(name), nullptr) << name;
    }
}

TEST(RenderInput, NamesItsReference) {
    const ResolvedInput input = render_input({"notes", "myNotes", "n1"}, *built_in_module("notes"),
                                             Json{{"title", "A"}, {"content", "B"}});
    EXPECT_EQ(input.id, "n1");
    EXPECT_EQ(input.module, "notes");
    EXPECT_EQ(input.table, "myNotes");
    EXPECT_EQ(input.title, "A");
    EXPECT_EQ(input.content, "B");
}

TEST(RenderInput, GoalTellsProgressAndPeriod) {
    const ResolvedInput goal = render("goals", Json::parse(R"({"title": "Laufen", "currentValue": 2,
                                 "target": {"value": 4, "period": "week", "comparison": "gte"}})"));
    EXPECT_EQ(goal.title, "Laufen");
    EXPECT_EQ(goal.content, "Fortschritt: 2 / 4, Zeitraum: week");
    EXPECT_EQ(render("goals", Json::object()).title, "Goal");
    EXPECT_EQ(render("goals", Json::object()).content, "Fortschritt: ? / ?");
}

TEST(RenderInput, GoalIsReadLiberally) {
    const auto content = [](const char* record) {
        return render("goals", Json::parse(record)).content;
    };
    EXPECT_EQ(content(R"({"currentValue": 0.5, "target": {"value": 2.0}, "period": "day"})"),
              "Fortschritt: 0.5 / 2, Zeitraum: day");
    EXPECT_EQ(content(R"({"currentValue": "3", "target": 5})"), "Fortschritt: 3 / 5");
    EXPECT_EQ(content(R"({"currentValue": null, "target": null})"), "Fortschritt: ? / ?");
    EXPECT_EQ(content(R"({"currentValue": [], "target": [[{}]]})"), "Fortschritt: ? / ?");
    EXPECT_EQ(content(R"({"currentValue": -1, "target": {"value": {}, "period": ""}})"),
              "Fortschritt: -1 / ?");
    EXPECT_EQ(content(R"({"currentValue": 18446744073709551615, "target": {"value": 1e300}})"),
              "Fortschritt: 18446744073709551615 / 1e+300");
}

TEST(RenderInput, NotesAndJournalTellTheirContent) {
    EXPECT_EQ(render("notes", Json{{"content", "Text"}}).title, "Notiz");
    EXPECT_EQ(render("journal", Json{{"content", "Text"}}).title, "Journal-Eintrag");
    EXPECT_EQ(render("journal", Json{{"title", "Montag"}}).title, "Montag");
    EXPECT_EQ(render("journal", Json{{"content", " Text\nZeile 2 \n"}}).content, "Text\nZeile 2");
    EXPECT_EQ(render("notes", Json::object()).content, "");
    EXPECT_EQ(render("notes", Json{{"title", " \n"}}).title, "Notiz");
    EXPECT_EQ(render("notes", Json{{"title", "[encrypted]"}, {"content", "[encrypted]"}}).content,
              "[encrypted]");
}

TEST(RenderInput, TaskTellsStatusTitleDescriptionAndDueDate) {
    const Json record = {{"title", "Milch"},
                         {"status", "pending"},
                         {"description", "2 Liter"},
                         {"dueDate", "2026-04-15"},
                         {"priority", "high"}};
    for (const char* module : {"tasks", "todo"}) {
        EXPECT_EQ(render(module, record).title, "Milch");
        EXPECT_EQ(render(module, record).content,
                  "Status: pending\nTitel: Milch\nBeschreibung: 2 Liter\nFällig: 2026-04-15");
    }
    EXPECT_EQ(render("todo", Json::object()).title, "Task");
    EXPECT_EQ(render("todo", Json::object()).content, "");
    EXPECT_EQ(render("todo", Json{{"title", "A"}, {"isCompleted", true}}).content,
              "Status: erledigt\nTitel: A");
    EXPECT_EQ(render("todo", Json{{"isCompleted", false}}).content, "Status: offen");
    EXPECT_EQ(render("todo", Json{{"isCompleted", 1}, {"dueDate", nullptr}}).content, "");
}

TEST(RenderInput, EventTellsTitleStartAndPlace) {
    const ResolvedInput event = render(
        "calendar",
        Json{{"title", "Zahnarzt"}, {"startDate", "2026-04-15T09:00:00Z"}, {"location", "Bonn"}});
    EXPECT_EQ(event.title, "Zahnarzt");
    EXPECT_EQ(event.content, "Titel: Zahnarzt\nBeginn: 2026-04-15T09:00:00Z\nOrt: Bonn");
    EXPECT_EQ(
        render("calendar", Json{{"endDate", "2026-04-15T10:00:00Z"}, {"allDay", false}}).content,
        "Ende: 2026-04-15T10:00:00Z\nGanztägig: nein");
    EXPECT_EQ(render("calendar", Json::object()).title, "Termin");
}

TEST(RenderInput, TheNoteThatIsASpacesContextIsIntroducedAndLonger) {
    const Json note = {{"content", std::string(1400, 'x')}, {"isSpaceContext", true}};
    EXPECT_EQ(render("notes", note).content,
              "Dauerhafter Kontext dieses Bereichs:\n" + std::string(1400, 'x'));
    for (const Json& other : {Json(false), Json("true"), Json(1), Json()}) {
        Json ordinary = note;
        ordinary["isSpaceContext"] = other;
        EXPECT_EQ(render("notes", ordinary).content.find("Kontext"), std::string::npos) << other;
    }
}

TEST(InputModule, OfTheCalendarNamesTheRecordThatHasTheTimes) {
    const LinkedRecord* link = built_in_module("calendar")->link;
    ASSERT_NE(link, nullptr);
    EXPECT_EQ(link->id_field, "timeBlockId");
    EXPECT_EQ(link->app_id, "timeblocks");
    EXPECT_EQ(link->table, "timeBlocks");
    EXPECT_EQ(built_in_module("notes")->link, nullptr);
    EXPECT_TRUE(holds_ciphertext(Json{{"a", {"x", "enc:1:a.b"}}}));
    EXPECT_FALSE(holds_ciphertext(Json{{"a", {"x", 1}}}));
}

TEST(RenderInput, ContextAndProfileHaveFixedLabels) {
    EXPECT_EQ(render("kontext", Json{{"title", "X"}, {"content", "C"}}).title, "Kontext");
    EXPECT_EQ(render("kontext", Json{{"title", "X"}, {"content", "C"}}).content, "C");
    EXPECT_EQ(render("profile", Json{{"title", "X"}}).title, "Profil");
}

TEST(RenderInput, ProfileJoinsListsAndObjects) {
    const ResolvedInput profile = render("profile", Json::parse(R"({
        "about": {"bio": "Lehrerin", "languages": ["de", "en"], "birthday": null},
        "interests": ["Laufen", "", "Yoga"], "routine": {"wakeUp": "07:00", "workDays": [1, 2]},
        "nutrition": {}, "leisure": {"media": ["Bücher"]}, "goals": [], "social": "Team",
        "freeform": "# Mehr\nText", "interview": {"answeredIds": ["a"]}})"));
    EXPECT_EQ(profile.content,
              "Über mich: bio: Lehrerin; languages: de, en\nInteressen: Laufen, Yoga\n"
              "Tagesablauf: wakeUp: 07:00; workDays: 1, 2\n"
              "Freizeit: media: Bücher\nSoziales: Team\nWeiteres: # Mehr\nText");
}

TEST(RenderInput, TellsTruthValuesAndListsOfObjects) {
    EXPECT_EQ(
        render("notes", Json::parse(R"({"content": [{"a": true}, {"b": false}, []]})")).content,
        "a: ja; b: nein");
    EXPECT_EQ(render("notes", Json{{"content", 1.5}}).content, "1.5");
    EXPECT_EQ(render("notes", Json{{"content", Json::binary({1})}}).content, "");
}

TEST(RenderInput, CutsCharactersAndEndsInAnEllipsis) {
    const struct {
        const char* module;
        const char* field;
        std::size_t limit;
    } cuts[] = {{"notes", "content", 500},     {"journal", "content", 500},
                {"kontext", "content", 1500},  {"todo", "description", 500},
                {"calendar", "location", 500}, {"profile", "freeform", 2000}};
    for (const auto& [module, field, limit] : cuts) {
        for (const std::string_view letter : {"x", "ä", "€", "😀"}) {
            const std::string content =
                render(module, Json{{field, repeated(letter, 3000)}}).content;
            EXPECT_EQ(count_chars(content), limit) << module << letter;
            EXPECT_TRUE(content.ends_with(std::string(letter) + "…")) << module << letter;
            EXPECT_EQ(repair_utf8(content), content);
        }
    }
    const std::string fits = repeated("😀", 500);
    EXPECT_EQ(render("notes", Json{{"content", fits}}).content, fits);
    EXPECT_EQ(render("notes", Json{{"content", fits + "x"}}).content, repeated("😀", 499) + "…");
    EXPECT_EQ(count_chars(render("notes", Json{{"title", repeated("ä", 1 << 20)}}).title), 500u);
}

TEST(RenderInput, NeverShowsCiphertext) {
    const char* const sealed = "enc:1:aWFhYWFhYWFhYWFh.YmJi";
    for (const char* name :
         {"goals", "notes", "todo", "calendar", "journal", "kontext", "profile"}) {
        const InputModule& module = *built_in_module(name);
        Json record;
        for (const std::string_view field : module.fields) {
            record[std::string(field)] = {{"a", {sealed, {{"b", sealed}}}}};
        }
        const ResolvedInput nested = render(name, record);
        EXPECT_EQ((nested.title + nested.content).find("enc:1:"), std::string::npos) << name;
        for (const std::string_view field : module.fields) {
            record[std::string(field)] = sealed;
        }
        const ResolvedInput plain = render(name, record);
        EXPECT_EQ((plain.title + plain.content).find("enc:1:"), std::string::npos) << name;
    }
}

TEST(RenderInput, TakesRecordsOfAnyShape) {
    const Json hostile[] = {
        Json(),
        Json(1),
        Json("x"),
        Json::array({1, 2}),
        Json::array(),
        *parse_json(R"({"content": )" + repeated("[", 150) + repeated("]", 150) + "}"),
        Json{{"content", "\xFF\xFE\xED\xA0\x80"}, {"title", "\xC3"}},
        Json{{"content", std::string("a\0b", 3)}, {"title", std::string(1, '\0')}},
        Json{{"content", std::string(1 << 20, '\0')}}};
    for (const Json& record : hostile) {
        for (const char* module : {"goals", "notes", "todo", "calendar", "kontext", "profile"}) {
            const ResolvedInput input = render(module, record);
            EXPECT_EQ(repair_utf8(input.content), input.content);
            EXPECT_EQ(repair_utf8(input.title), input.title);
            EXPECT_FALSE(input.title.empty());
        }
    }
    EXPECT_EQ(render("notes", hostile[7]).content, "ab");
    EXPECT_EQ(render("notes", Json{{"content", std::string("enc:1\0:a.b", 10)}}).content, "");
}

TEST(RenderInput, LeavesNoCopyOfASecretBehind) {
    const Json record = {{"title", "Zwiebelchen 1 " + std::string(80, 'x')},
                         {"content", repeated("Zwiebelchen 2 ä ", 200)}};
    const Json nested = {{"about", {{"bio", repeated("Zwiebelchen ", 300)}, {"n", nullptr}}}};
    const test::FreedMemoryWatch watch("Zwiebelchen");
    ASSERT_TRUE(watch.works());
    for (const auto& [module, source] : {std::pair("notes", &record), {"profile", &nested}}) {
        ResolvedInput input = render(module, *source);
        EXPECT_NE(input.content.find("Zwiebelchen"), std::string::npos);
        wipe(input.title);
        wipe(input.content);
    }
    EXPECT_EQ(watch.count(), 0);
}

// ---------------------------------------------------------------- SQL resolvers

TEST(InputFromResolver, TakesTitleAndContent) {
    const InputReference reference{"recipes", "recipes", "r1"};
    const auto input = input_from_resolver(reference, {{"title", "Suppe"}, {"content", "Wasser"}});
    ASSERT_TRUE(input);
    EXPECT_EQ(input->id, "r1");
    EXPECT_EQ(input->module, "recipes");
    EXPECT_EQ(input->table, "recipes");
    EXPECT_EQ(input->title, "Suppe");
    EXPECT_EQ(input->content, "Wasser");
    for (const Json& title : {Json(), Json(1), Json::array(), Json("enc:1:a.b")}) {
        EXPECT_EQ(input_from_resolver(reference, {{"title", title}, {"content", "x"}})->title, "");
    }
}

TEST(InputFromResolver, RefusesAnythingElse) {
    for (const char* output :
         {"null", "[]", "{}", "1", R"("text")", R"({"title": "x"})", R"({"content": null})",
          R"({"content": 1})", R"({"content": {}})", R"({"content": "enc:1:a.b"})"}) {
        EXPECT_FALSE(input_from_resolver({"m", "t", "i"}, Json::parse(output))) << output;
    }
}

TEST(InputFromResolver, CutsAndRepairs) {
    const auto input = input_from_resolver({"m", "t", "i"}, {{"title", std::string(1 << 20, 'x')},
                                                             {"content", repeated("ä", 1 << 20)}});
    EXPECT_EQ(count_chars(input->title), PromptLimits::title);
    EXPECT_EQ(count_chars(input->content), kMaxResolverContent);
    EXPECT_TRUE(input->content.ends_with("ä…"));
    EXPECT_EQ(
        input_from_resolver({"m", "t", "i"}, {{"content", std::string("a\0\xFF", 3)}})->content,
        "a\xEF\xBF\xBD");
}

// ---------------------------------------------------------------- ciphertext

TEST(Ciphertexts, AreFoundOnlyInFieldsThatAreRead) {
    const InputModule& notes = *built_in_module("notes");
    EXPECT_TRUE(has_ciphertext({{"content", "enc:1:a.b"}}, notes));
    EXPECT_TRUE(has_ciphertext({{"title", {{"x", {1, "enc:1:a.b"}}}}}, notes));
    EXPECT_FALSE(has_ciphertext({{"transcript", "enc:1:a.b"}, {"content", "x"}}, notes));
    EXPECT_FALSE(has_ciphertext({{"content", " enc:1:"}, {"title", 1}}, notes));
    for (const char* record : {"null", "[\"enc:1:a.b\"]", "\"enc:1:a.b\"", "{}"}) {
        EXPECT_FALSE(has_ciphertext(Json::parse(record), notes)) << record;
    }
}

TEST(Ciphertexts, CanBeReplacedInPlace) {
    Json record = {{"about", "enc:1:1"},
                   {"interests", {"enc:1:2", "plain", {{"x", "enc:1:3"}}}},
                   {"interview", "enc:1:4"}};
    const InputModule& profile = *built_in_module("profile");
    const std::vector<std::string*> found = ciphertexts_in(record, profile);
    ASSERT_EQ(found.size(), 3u);
    for (std::string* text : found) {
        *text = "open";
    }
    EXPECT_EQ(record, Json::parse(R"({"about": "open", "interview": "enc:1:4",
                                      "interests": ["open", "plain", {"x": "open"}]})"));
    EXPECT_FALSE(has_ciphertext(record, profile));
    Json no_object = "enc:1:1";
    EXPECT_TRUE(ciphertexts_in(no_object, profile).empty());
}

}  // namespace
}  // namespace mana_ai::core
