#include "mana_ai/core/record/records.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

namespace mana_ai::core {

namespace {

constexpr std::string_view kCiphertextPrefix = "enc:1:";

bool is_blank(std::string_view text) noexcept {
    return text.find_first_not_of(" \t\r\n") == std::string_view::npos;
}

std::string text_of(const Json& record, const char* key) {
    return std::string(string_or(record, key, ""));
}

std::string plaintext_of(const Json& record, const char* key) {
    const std::string_view text = string_or(record, key, "");
    return is_ciphertext(text) ? std::string() : std::string(text);
}

std::optional<std::string> optional_plaintext_of(const Json& record, const char* key) {
    const std::string_view text = string_or(record, key, "");
    if (is_blank(text) || is_ciphertext(text)) {
        return std::nullopt;
    }
    return std::string(text);
}

// A number of at least 0, rounded down and clamped to `max`; nullopt if the member is not a number.
std::optional<std::int64_t> count_of(const Json& record, const char* key, std::int64_t max) {
    const auto member = record.find(key);
    if (member == record.end()) {
        return std::nullopt;
    }
    if (member->is_number_unsigned()) {
        const auto value = member->get<std::uint64_t>();
        return value > static_cast<std::uint64_t>(max) ? max : static_cast<std::int64_t>(value);
    }
    if (member->is_number_integer()) {
        return std::clamp<std::int64_t>(member->get<std::int64_t>(), 0, max);
    }
    if (member->is_number_float()) {
        const double value = std::floor(member->get<double>());
        // The cast below is defined only for values that fit; as a double, max may round up.
        if (!(value > 0)) {
            return 0;
        }
        return value >= static_cast<double>(max) ? max : static_cast<std::int64_t>(value);
    }
    return std::nullopt;
}

// Moves an array out of the record; anything else becomes an empty one.
Json take_array(Json& record, const char* key) {
    const auto member = record.find(key);
    return member != record.end() && member->is_array() ? std::move(*member) : Json::array();
}

}  // namespace

bool is_ciphertext(std::string_view text) noexcept {
    return text.starts_with(kCiphertextPrefix);
}

Agent parse_agent(const Json& record) {
    Agent agent;
    if (!record.is_object()) {
        return agent;
    }
    agent.id = text_of(record, "id");
    agent.name = plaintext_of(record, "name");
    agent.role = plaintext_of(record, "role");
    agent.state = std::string(string_or(record, "state", agent.state));
    agent.system_prompt = optional_plaintext_of(record, "systemPrompt");
    agent.memory = optional_plaintext_of(record, "memory");
    if (const auto policy = record.find("policy"); policy != record.end()) {
        agent.policy = parse_policy(*policy);
    }
    agent.max_concurrent_missions =
        static_cast<int>(count_of(record, "maxConcurrentMissions", std::numeric_limits<int>::max())
                             .value_or(agent.max_concurrent_missions));
    agent.max_tokens_per_day =
        count_of(record, "maxTokensPerDay", std::numeric_limits<std::int64_t>::max());
    return agent;
}

bool Mission::has_ciphertext() const noexcept {
    return is_ciphertext(title) || is_ciphertext(objective) || is_ciphertext(concept_markdown);
}

Mission parse_mission(Json record) {
    Mission mission;
    if (!record.is_object()) {
        return mission;
    }
    mission.id = text_of(record, "id");
    mission.title = text_of(record, "title");
    mission.objective = text_of(record, "objective");
    mission.concept_markdown = text_of(record, "conceptMarkdown");
    mission.state = text_of(record, "state");

    mission.next_run_at = parse_instant(string_or(record, "nextRunAt", ""));
    mission.max_tokens_per_day =
        count_of(record, "maxTokensPerDay", std::numeric_limits<std::int64_t>::max());
    mission.inputs = take_array(record, "inputs");
    mission.iterations = take_array(record, "iterations");
    if (const auto cadence = record.find("cadence"); cadence != record.end()) {
        mission.cadence = std::move(*cadence);
    }
    if (const auto grant = record.find("grant"); grant != record.end()) {
        mission.grant = std::move(*grant);
    }
    if (const auto agent = record.find("agentId"); agent != record.end() && !agent->is_null()) {
        if (!agent->is_string()) {
            mission.agent_id = dump_json(*agent);
        } else if (!agent->get_ref<const std::string&>().empty()) {
            mission.agent_id = agent->get<std::string>();
        }
    }
    return mission;
}

bool is_agent_missing(const Mission& mission, const Agent* agent, bool was_deleted,
                      bool is_ambiguous) noexcept {
    return is_ambiguous || (agent == nullptr && !was_deleted && mission.agent_id &&
                            *mission.agent_id != kLegacyAgentId);
}

}  // namespace mana_ai::core
