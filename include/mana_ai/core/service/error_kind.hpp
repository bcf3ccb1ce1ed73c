// Kinds of failures of a model provider. docs/contract/tick.md, Model wire format.
#pragma once

#include <optional>
#include <string_view>

namespace mana_ai::core {

enum class ErrorKind {
    Blocked,      // the provider refuses the content
    Capability,   // the model cannot handle the request
    Auth,         // the credentials are refused
    RateLimit,    // too many requests
    Truncated,    // the provider cut off its answer
    NoProvider,   // the gateway has no provider to answer: its failure, not the request's
    Unknown,      // every other status
    Timeout,      // no answer in time
    Unreachable,  // no connection
    Malformed,    // an answer that is not a chat completion, or larger than allowed
};

// "blocked", "capability", "auth", "rate_limit", "truncated", "no_healthy_provider", "unknown",
// "timeout", "unreachable", "malformed"; a static string, used in metrics and on the wire.
const char* name(ErrorKind kind) noexcept;

// The inverse; nullopt for any other text.
std::optional<ErrorKind> error_kind_from_name(std::string_view text) noexcept;

}  // namespace mana_ai::core
