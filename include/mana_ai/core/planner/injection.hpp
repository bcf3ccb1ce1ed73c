// Phrases in the arguments of tool calls by which a text tries to become an instruction.
// docs/contract/tick.md, Injection markers.
#pragma once

#include <optional>
#include <string_view>

#include "mana_ai/core/text/json.hpp"

namespace mana_ai::core {

enum class InjectionMarker {
    IgnorePrevious,  // "ignore all previous instructions"
    NewRole,         // "you are now a helpful assistant"
    SystemTag,       // "<system"
    Template,        // "{{ user.password }}"
    SystemFence,     // three backticks and "system"
};

// German, for the model whose call is refused: what was found. A static string.
const char* describe(InjectionMarker marker) noexcept;

// The first marker in any string of at least 16 characters (code points) of the value, at any
// depth. The keys of objects are searched as well: those of an argument that is an object reach
// the user's device just as its values do. Takes time linear in the size of the value.
//
// Details that the contract leaves open:
// - Letters are folded within ASCII; white space is that of ASCII.
// - "you are now" is followed by white space, then by at most 40 characters, then by the name.
// - "system" is a word if no ASCII letter, digit or underscore follows.
// - "{{" is closed by the next "}}", even on another line; between them is at least one character.
std::optional<InjectionMarker> find_injection_marker(const Json& arguments);

// The same for arguments as the model wrote them. Text that is not JSON is searched as it is.
std::optional<InjectionMarker> find_injection_marker_in_text(std::string_view arguments);

}  // namespace mana_ai::core
