// Any JSON as a mission's inputs, as a record of each module, and as a resolver's output.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "mana_ai/core/record/mission_input.hpp"
#include "mana_ai/core/record/plan_basis.hpp"
#include "mana_ai/core/record/records.hpp"
#include "mana_ai/core/text/json.hpp"
#include "mana_ai/core/text/utf8.hpp"
#include "mana_ai/core/text/wipe.hpp"

namespace {

using namespace mana_ai::core;

constexpr std::size_t kLongestContent = 2000;

void require(bool holds) {
    if (!holds) {
        std::abort();
    }
}

std::size_t count_chars(std::string_view text) {
    return static_cast<std::size_t>(
        std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xC0) != 0x80; }));
}

void require_valid(const std::string& text, std::size_t max_chars) {
    require(repair_utf8(text) == text && count_chars(text) <= max_chars);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const auto parsed = parse_json({reinterpret_cast<const char*>(data), size});
    if (!parsed) {
        return 0;
    }
    const auto references = input_references(*parsed);
    require(references.size() <= kMaxInputs);
    for (std::size_t i = 0; i < references.size(); ++i) {
        const InputReference& reference = references[i];
        require(!reference.module.empty() && reference.module.size() <= kMaxReferencePart);
        require(!reference.table.empty() && !reference.id.empty());
        require(std::count(references.begin(), references.end(), reference) == 1);
    }

    const InputReference reference{"m", "t", "i"};
    for (const char* name :
         {"goals", "notes", "tasks", "todo", "calendar", "journal", "kontext", "profile"}) {
        const InputModule& module = *built_in_module(name);
        const ResolvedInput input = render_input(reference, module, *parsed);
        require_valid(input.title, PromptLimits::title);
        require_valid(input.content, kLongestContent);
        require(!input.title.empty() && !is_ciphertext(input.title));
        require(!is_ciphertext(input.content));

        Json opened = *parsed;
        const auto found = ciphertexts_in(opened, module);
        require(found.empty() != has_ciphertext(*parsed, module));
        for (std::string* text : found) {
            require(is_ciphertext(*text));
            *text = "opened";
        }
        require(!has_ciphertext(opened, module));
        wipe(opened);
        require(opened.is_null());
    }
    if (const auto input = input_from_resolver(reference, *parsed)) {
        require_valid(input->title, PromptLimits::title);
        require_valid(input->content, kMaxResolverContent);
    }
    const Mission mission = parse_mission(*parsed);
    require(parse_json(plan_basis(mission, nullptr, {}, "model")).has_value());
    is_recurring(mission.cadence);
    return 0;
}
