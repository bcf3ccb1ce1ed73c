#include "mana_ai/extension/run/tool_table.hpp"

#include "mana_ai/pg/spi.hpp"

namespace mana_ai {

LoadedTools load_tools() {
    static pg::Statement select_tools(R"sql(
SELECT name, module, description, default_policy, parameters::text
  FROM mana_ai.tools t
 WHERE enabled
   AND NOT EXISTS (SELECT FROM mana_ai.stops s WHERE s.scope = 'tool:' || t.name AND s.resumed_at IS NULL)
 ORDER BY module, name)sql");
    LoadedTools loaded;
    for (const pg::Row& row : select_tools.execute().rows) {
        auto tool =
            core::parse_tool(row.text(0), row.text(1), row.text(2), row.text(3), row.text(4));
        if (tool)
            loaded.tools.push_back(std::move(*tool));
        else
            loaded.unusable.push_back(row.text(0));
    }
    return loaded;
}

}  // namespace mana_ai
