// The rows of a mission in the log, as SQL and by their places: for what is read again of its
// history (docs/contract/data.md, Lost plans).
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "mana_ai/extension/sync/sync_table.hpp"

namespace mana_ai {

// SQL: the rows of mission $2 of user $1, as c; and the time that a row gives to its iterations.
std::string rows_of_mission(const SyncTable& table, const std::string& elements = "");
std::string iterations_stamp(const SyncTable& table);

// SQL: a row's place, which of a partitioned table includes the leaf: as text; as columns `place`
// and `leaf`; that c is at one of the places in $3, a text[]; and the row of user $1 as c at a
// place and leaf.
std::string place_of_row(const SyncTable& table);
std::string place_columns(const SyncTable& table);
std::string is_at_places(const SyncTable& table);
std::string row_at(const SyncTable& table, const std::string& place, const std::string& leaf);

// SQL: whether row c is one that mana_ai wrote for the iteration e.iteration. Its ids are UUIDs.
std::string names_iteration(const SyncTable& table);

struct NewestRows {
    std::vector<std::string> places;
    std::vector<std::string> recent;  // the first of them
};

// Places of the rows to read: those that can contain iterations that fit into a record. Large
// values are not fetched for that. Runs as the table's owner, who may not call the extension's
// function for their size. Throws PgError.
NewestRows newest_rows(const SyncTable& table, std::string_view user_id,
                       std::string_view mission_id);

}  // namespace mana_ai
