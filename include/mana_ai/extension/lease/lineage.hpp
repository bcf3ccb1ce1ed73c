// What a run's requests were made of, so that they can be rebuilt from the log: ids, clocks and
// digests, never a text (docs/lineage.md).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "mana_ai/core/service/model_wire.hpp"
#include "mana_ai/core/time/instant.hpp"
#include "mana_ai/crypto/digest.hpp"

namespace mana_ai {

struct ClaimedMission;

// A record that the run has read; a row of mana_ai.run_reads.
struct ReadRecord {
    const char* role;    // "mission", "agent", "input" or "linked": to the input before it
    std::string module;  // of an input
    std::string table;
    std::string id;
    std::string clocks;  // clock_vector_of(); empty = unknown
    bool was_encrypted = false;
    std::string left_out;  // why it is not in the prompt; empty = it is in it
};

// A request to the model; a row of mana_ai.run_requests.
struct SentRequest {
    const char* purpose;  // "plan" or "compaction"
    int round = 1;        // of the plan
    std::string model;
    std::string service_tier;
    int64_t max_tokens = 0;
    bool has_cache_key = false;
    int64_t agent_tokens = 0;  // of the agent before this run, as in reminders
    core::Instant sent_at = 0;
    std::string sha256;            // of the body; empty: the body contains withheld text
    std::optional<int64_t> bytes;  // likewise
};

struct Lineage {
    std::vector<ReadRecord> reads;
    std::vector<SentRequest> requests;
    size_t requests_on_disk = 0;
    core::CivilTime local_time;      // in the prompt
    const char* research = nullptr;  // "used" or "failed"
    std::string prompt_version;
    // Of the part of the last request that the next one begins with.
    struct Beginning {
        crypto::Sha256 digest;
        size_t bytes;
    };
    std::optional<Beginning> beginning;
};

// Adds the request that is about to be sent. Its digest continues from those of earlier ones with
// the same beginning: most of a body are the tools.
void note_request(Lineage& lineage, SentRequest request, const core::ChatBody& body);

// Writes what is not on disk yet, in the current transaction. It may be called again after a
// rollback: the caller records the commit in requests_on_disk. The records are written with the
// first request, since a run without requests has nothing to rebuild.
void write_lineage(const ClaimedMission& claimed, const Lineage& lineage);

// The same for all runs of one agent of a user, and for all runs of the user without an agent; it
// does not reveal them.
std::string prompt_cache_key_of(const std::string& user_id, const std::string& agent_id);

// Of the fixed part of a request: the prompts' own text and the offered tools.
std::string prompt_version_of(std::string_view tools_json);

}  // namespace mana_ai
