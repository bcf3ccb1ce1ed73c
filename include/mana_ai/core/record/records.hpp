// Missions and agents as the planner sees them, read tolerantly from their snapshot records.
// docs/contract/data.md, Mission record and Agent record.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "mana_ai/core/record/policy.hpp"
#include "mana_ai/core/text/json.hpp"
#include "mana_ai/core/time/instant.hpp"

namespace mana_ai::core {

// The principal of plans without an agent. As an agentId it means "none" if there is no such agent.
inline constexpr std::string_view kLegacyAgentId = "legacy:ai-default";

// Whether a value is encrypted on the user's device (`enc:1:…`). docs/contract/inputs.md.
bool is_ciphertext(std::string_view text) noexcept;

struct Agent {
    std::string id;
    std::string name;
    std::string role;
    std::string state = "active";
    std::optional<std::string> system_prompt;  // nullopt when absent, blank or ciphertext
    std::optional<std::string> memory;         // likewise
    Policy policy;
    int max_concurrent_missions = 1;
    std::optional<std::int64_t> max_tokens_per_day;  // nullopt = no cap, 0 = never run
};

// Fields of a wrong type get their default; numbers are rounded down and clamped, so a negative
// cap means 0. Never throws on any JSON value. A name or role that is ciphertext is left empty.
Agent parse_agent(const Json& record);

struct Mission {
    std::string id;
    std::string title;
    std::string objective;
    std::string concept_markdown;
    std::string state;  // as the client wrote it; only 'active' is due
    std::optional<Instant> next_run_at;
    Json inputs = Json::array();      // always an array
    Json cadence;                     // as the client wrote it
    Json iterations = Json::array();  // always an array; its elements may be anything
    int unreviewed = 0;               // of all of them; parse_mission() leaves it at 0
    // A digest of the user's response to all plans, if it was made from a longer list than
    // `iterations`; empty = plan_basis() reads `iterations` itself.
    std::string verdicts_digest;
    std::optional<std::string> agent_id;
    std::optional<std::int64_t> max_tokens_per_day;  // as of an agent
    Json grant;  // as the client wrote it; null if there is none

    // Whether title, objective or concept is ciphertext, which no model may see.
    bool has_ciphertext() const noexcept;
};

// Takes the record by value: inputs, iterations and grant are moved out of an rvalue. Never throws
// on any JSON value. An agentId of a wrong type is kept as its JSON text: it names no agent, so the
// mission does not run, instead of running without policy and budget.
Mission parse_mission(Json record);

// Whether the mission must wait because of its agent. `agent` is the record of its agentId, null =
// none. A mission runs without an agent that was deleted, and waits if several agents could be
// meant. docs/contract/tick.md, Gates.
bool is_agent_missing(const Mission& mission, const Agent* agent, bool was_deleted = false,
                      bool is_ambiguous = false) noexcept;

}  // namespace mana_ai::core
