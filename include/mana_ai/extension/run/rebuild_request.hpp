// The requests of a past run, rebuilt from the log (docs/lineage.md), with the privileges of the
// current role: only the rows of the tables and of the log that it may read.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "mana_ai/core/planner/tool_catalog.hpp"
#include "mana_ai/core/record/records.hpp"
#include "mana_ai/core/time/instant.hpp"

namespace mana_ai {

struct RecordedRequest {
    int64_t ordinal = 0;
    std::string purpose;
    int64_t round = 0;
    std::string sha256;
    std::string model;
    std::string service_tier;
    int64_t max_tokens = 0;
    bool has_cache_key = false;
    int64_t agent_tokens = 0;
};

struct RecordedRead {
    std::string role;
    std::string module;
    std::string table;
    std::string id;
    std::string clocks;
    bool was_encrypted = false;
    bool is_left_out = false;
};

struct RecordedRun {
    std::string user_id;
    std::string prompt_version;
    core::CivilTime local_time;
    std::string research;
    std::vector<RecordedRequest> requests;
    std::vector<RecordedRead> reads;
};

// Without requests: nothing is on record, or not for this role.
RecordedRun recorded_run(const std::string& run_id);

// Why a request cannot be rebuilt; a fixed text with ids.
struct Obstacle {
    const char* status;
    std::string reason;
};

// What all requests of a run have in common.
struct RebuiltPrompt {
    std::optional<Obstacle> obstacle;
    std::string system;
    std::string user;
    std::optional<core::Agent> agent;
    std::string agent_text;  // what `agent` was read from
    core::OfferedTools tools;
};
RebuiltPrompt rebuild_prompt(const RecordedRun& run);

struct RebuiltRequest {
    const char* status = "rebuilt";
    std::string reason;
    std::string body;  // empty unless its digest is the recorded one
};
RebuiltRequest rebuild_request(const RecordedRun& run, const RebuiltPrompt& prompt,
                               const RecordedRequest& request);

}  // namespace mana_ai
