// What a mission reads: references, and the text that a record becomes in the prompt.
// docs/contract/inputs.md.
#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "mana_ai/core/record/prompt_limits.hpp"
#include "mana_ai/core/record/resolved_input.hpp"
#include "mana_ai/core/text/json.hpp"

namespace mana_ai::core {

// The newest references that a mission may have; older ones are ignored.
inline constexpr std::size_t kMaxInputs = 200;

// The longest module, table or id of a reference, in bytes.
inline constexpr std::size_t kMaxReferencePart = 512;

// The most characters of an SQL resolver's content; more is cut.
inline constexpr std::size_t kMaxResolverContent = 20'000;

struct InputReference {
    std::string module;
    std::string table;
    std::string id;

    bool operator==(const InputReference&) const = default;
};

// The references of a mission's `inputs`, oldest first. Left out: entries that are not objects, or
// whose module, table or id is not a string, empty, longer than kMaxReferencePart, not UTF-8 or
// has control characters; all but the last mention of the same record; all but the last kMaxInputs.
std::vector<InputReference> input_references(const Json& inputs);

// Another record of the user that a record names, and the fields that are taken from it.
struct LinkedRecord {
    std::string_view id_field;
    std::string_view app_id;
    std::string_view table;
    std::span<const std::string_view> fields;
};

// A module whose records the extension itself can read.
struct InputModule {
    std::string_view name;
    std::string_view app_id;
    bool may_be_encrypted = false;  // then its encrypted records need a grant
    // The fields of a record that rendering reads; no other field may be decrypted.
    std::span<const std::string_view> fields;
    const LinkedRecord* link = nullptr;  // static
};

// goals, notes, tasks, todo, calendar, journal, kontext, profile; null for any other name. The
// result is static.
const InputModule* built_in_module(std::string_view module) noexcept;

// The input that a record becomes by the contract's table. The record has plaintext instead of
// ciphertext: the content of a JSON string, or the JSON text of any other value. Remaining
// ciphertext is left out as if it were absent, since no model may see it. Values may be of any
// type: numbers and booleans become text, lists and objects are joined on one line. `module` is one
// of built_in_module(). The content is valid UTF-8 without U+0000; it is empty if the record has no
// content. The caller wipes title and content if they are secret; no other copy of them remains.
ResolvedInput render_input(const InputReference& reference, const InputModule& module,
                           const Json& record);

// What an SQL resolver returned, {title?, content}, cut at PromptLimits::title and
// kMaxResolverContent. nullopt: not an object, or without a plaintext string `content`.
std::optional<ResolvedInput> input_from_resolver(const InputReference& reference,
                                                 const Json& output);

// Whether the value is or contains ciphertext.
bool holds_ciphertext(const Json& value);

// Whether a field that rendering reads holds ciphertext, also inside lists and objects.
bool has_ciphertext(const Json& record, const InputModule& module);

// Every such string, to be replaced in place. Valid until the record is changed otherwise.
std::vector<std::string*> ciphertexts_in(Json& record, const InputModule& module);

}  // namespace mana_ai::core
