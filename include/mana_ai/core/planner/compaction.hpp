// Replacing the older part of a long conversation by a summary. docs/contract/tick.md, Compaction.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "mana_ai/core/planner/transcript.hpp"
#include "mana_ai/core/service/model_wire.hpp"

namespace mana_ai::core {

// The messages at the end that are always kept.
inline constexpr std::size_t kKeptMessages = 4;

inline constexpr double kCompactionTemperature = 0.2;

// Whether the run's tokens have reached 92 % of the maximum; 0 = never.
bool is_compaction_due(std::int64_t run_tokens, std::int64_t max_tokens) noexcept;

// The messages [begin, end) of a transcript.
struct MessageRange {
    std::size_t begin = 0;
    std::size_t end = 0;

    bool empty() const noexcept { return begin >= end; }
    std::size_t size() const noexcept { return empty() ? 0 : end - begin; }
};

// The messages between the first user message and the last kKeptMessages messages. If these would
// begin with a tool message, more are kept: providers refuse a history that separates an assistant
// message from the tool messages that answer it. Often empty.
MessageRange foldable_messages(const Transcript& transcript);

// The body of the request for a summary of these messages. They are included as fenced data, each
// cut to its share of the available length.
std::string build_compaction_request(std::string_view model, const Transcript& transcript,
                                     MessageRange messages, std::int64_t max_tokens = 0,
                                     const ServiceWishes& wishes = {});

// The four sections of a model's reply, in the contract's order. Missing ones have a placeholder;
// each is limited in length and cannot break out of our tags. nullopt if the reply has no text.
std::optional<std::string> read_summary(std::string_view reply);

// The serialized assistant message <compact-summary>…</compact-summary>.
std::string summary_message(std::string_view summary);

// The user's message after it. The kept messages begin with an assistant turn, and providers refuse
// two of them in a row.
std::string continue_message();

}  // namespace mana_ai::core
