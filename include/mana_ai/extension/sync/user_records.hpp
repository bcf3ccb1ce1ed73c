// The names of a user's records in the log.
#pragma once

#include <cstdint>
#include <optional>
#include <set>
#include <string>

namespace mana_ai {

// The first `limit` names of missions and agents of the user after `after` ("" = from the
// beginning), in bytewise order, without those whose ids are too long for a snapshot. Reads all of
// the user's rows, or the whole log if no index begins with user_id, and keeps only the names.
// Throws PgError.
std::set<std::string> next_records_of_user(const std::string& user_id, const std::string& after,
                                           int limit);

// A name is "<table>/<record>".
void split_record_name(const std::string& name, std::string& table_name, std::string& record_id);

// How many rows of the user the log has, of all apps; nullopt if no readable table is attached.
// Reads as much as next_records_of_user(). Throws PgError.
std::optional<int64_t> count_log_rows(const std::string& user_id);

}  // namespace mana_ai
