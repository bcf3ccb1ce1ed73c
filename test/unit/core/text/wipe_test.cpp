#include "mana_ai/core/text/wipe.hpp"

#include <gtest/gtest.h>

#include "../freed_memory.hpp"

namespace mana_ai::core {
namespace {

using test::FreedMemoryWatch;

TEST(Wipe, OverwritesTheWholeBuffer) {
    std::string text = "a secret that is stored on the heap because it is long";
    const std::size_t size = text.size();
    const char* bytes = text.data();
    text.resize(3);
    wipe(text);
    EXPECT_TRUE(text.empty());
    EXPECT_GE(text.capacity(), size);
    text.resize(size);  // the buffer is still the same, so it may be looked at
    ASSERT_EQ(text.data(), bytes);
    EXPECT_EQ(text, std::string(size, '\0'));
}

TEST(Wipe, LeavesTheBeginningThatOthersKnow) {
    std::string text = "known to all, and then a secret that is long enough for the heap";
    const std::size_t size = text.size();
    const std::size_t known = std::string_view("known to all").size();
    const char* bytes = text.data();
    wipe(text, known);
    EXPECT_TRUE(text.empty());
    text.resize(size);  // fills it with zeros
    ASSERT_EQ(text.data(), bytes);
    std::string shorter = "a secret that is stored on the heap because it is long";
    const std::size_t all = shorter.size();
    shorter.resize(3);
    const FreedMemoryWatch watch("on the heap because");
    ASSERT_TRUE(watch.works());
    wipe(shorter, all);
    shorter.shrink_to_fit();
    EXPECT_EQ(watch.count(), 0);
}

Json secrets() {
    return {{"short", "Zwiebelchen"},
            {"list", {"Zwiebelchen, und so lang, dass es auf dem Heap liegt", 1, nullptr}},
            {"deep", {{"deeper", {{{"deepest", "Zwiebelchen"}}}}}}};
}

TEST(Wipe, TheWatchSeesWhatIsNotWiped) {
    Json value = secrets();
    const FreedMemoryWatch watch("Zwiebelchen");
    ASSERT_TRUE(watch.works());
    value = nullptr;
    EXPECT_GE(watch.count(), 3);
}

TEST(Wipe, LeavesNoStringOfAJsonValue) {
    Json value = secrets();
    const FreedMemoryWatch watch("Zwiebelchen");
    ASSERT_TRUE(watch.works());
    wipe(value);
    EXPECT_TRUE(value.is_null());
    EXPECT_EQ(watch.count(), 0);
}

TEST(Wipe, TakesAnyValue) {
    for (const char* text : {"null", "1", "1.5", "true", "[]", "{}", R"("")"}) {
        Json value = Json::parse(text);
        wipe(value);
        EXPECT_TRUE(value.is_null()) << text;
    }
    Json bytes = Json::binary({1, 2, 3});
    wipe(bytes);
    EXPECT_TRUE(bytes.is_null());
    Json deep = *parse_json(std::string(kMaxJsonDepth, '[') + std::string(kMaxJsonDepth, ']'));
    wipe(deep);
    EXPECT_TRUE(deep.is_null());
}

}  // namespace
}  // namespace mana_ai::core
