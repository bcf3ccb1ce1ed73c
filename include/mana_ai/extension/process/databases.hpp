// The databases that mana_ai.database names, for processes that are connected to none.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace mana_ai {

// The elements of a setting that is a list. Throws PgError.
std::vector<std::string> split_list(std::string list);

// As configured, in their order. Throws PgError.
std::vector<std::string> configured_databases();

// Its oid; 0 if there is none that accepts connections. Begins its own transaction. Waits for no
// lock: while pg_database is locked, it returns the previous answer.
uint32_t find_database(const std::string& name);

}  // namespace mana_ai
