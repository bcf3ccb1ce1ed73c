// The tool catalog in mana_ai.tools (docs/contract/tick.md, Tools offered).
#pragma once

#include <string>
#include <vector>

#include "mana_ai/core/planner/tool_catalog.hpp"

namespace mana_ai {

struct LoadedTools {
    std::vector<core::Tool> tools;
    std::vector<std::string> unusable;  // names of rows that no provider would accept
};

// Reads the enabled tools, in a stable order. Runs in the current transaction.
LoadedTools load_tools();

}  // namespace mana_ai
