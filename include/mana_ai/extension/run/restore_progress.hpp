// What devices have made of the server's plans, and an older copy of another device, or a plan that
// was written meanwhile, has overwritten (docs/contract/data.md, Lost plans).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "mana_ai/extension/sync/sync_table.hpp"

namespace mana_ai {

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
