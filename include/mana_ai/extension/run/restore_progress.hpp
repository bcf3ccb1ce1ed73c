// What devices have made of the server's plans, and an older copy of another device, or a plan that
// was written meanwhile, has overwritten (docs/contract/data.md, Lost plans).
#pragma once

#include <cstdint>
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

// An iteration of the record on which a device may have got further.
struct UnfinishedIteration {
    std::string id;
    std::string iteration;     // JSON
    bool is_hopeless = false;  // restored too often already
};

// Those of a mission, the newest ones. Throws PgError.
std::vector<UnfinishedIteration> unfinished_iterations(std::string_view user_id,
                                                       std::string_view mission_id);

struct LostProgress {
    std::vector<std::string> ids;       // of those to be restored
    std::string fields = "{}";          // JSON: fields to be replaced, by id
    std::vector<std::string> hopeless;  // ids of those that were restored too often
    int64_t left = 0;                   // further ones, which do not fit
};

// What the rows at `places` (place_of_row()) have more of these iterations, if mana_ai wrote them:
// their ids are in `of_runs`, or a row of the runner names them. The record grows by at most `room`
// bytes. To be called as the table's owner and under the policy for the user. Throws PgError.
LostProgress find_lost_progress(const SyncTable& table, std::string_view user_id,
                                std::string_view mission_id, const std::vector<std::string>& places,
                                const std::vector<UnfinishedIteration>& unfinished,
                                const std::vector<std::string>& of_runs, int64_t room);

}  // namespace mana_ai
