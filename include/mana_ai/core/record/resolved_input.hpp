// The text that a record, or research, becomes for the prompt.
#pragma once

#include <string>

namespace mana_ai::core {

// docs/contract/inputs.md
struct ResolvedInput {
    std::string id;
    std::string module;
    std::string table;
    std::string title;
    std::string content;
};

}  // namespace mana_ai::core
