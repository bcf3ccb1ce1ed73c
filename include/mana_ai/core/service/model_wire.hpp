// The OpenAI-compatible chat completion format: requests are written strictly, replies are read
// liberally. docs/contract/tick.md, Model wire format.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "mana_ai/core/service/error_kind.hpp"
#include "mana_ai/core/time/instant.hpp"

namespace mana_ai::core {

// No model call uses more tokens than this.
inline constexpr std::int64_t kMaxTokenCount = 20'000'000;

// In characters; a longer name of a model that has answered is cut.
inline constexpr std::size_t kMaxModelName = 200;

// Tokens. Each number is at least 0 and small enough that thousands of them can be added.
struct Usage {
    std::int64_t prompt = 0;
    std::int64_t completion = 0;  // all that the model wrote, including reasoning
    std::int64_t total = 0;
    std::int64_t cached = 0;     // of the prompt, read from the provider's cache
    std::int64_t reasoning = 0;  // of the completion

    Usage& operator+=(const Usage& other) noexcept;
};

struct ToolCallRequest {
    std::string id;         // never empty, unique within its reply
    std::string name;       // empty if the model gave none
    std::string arguments;  // as the model gave it; may not be JSON
};

struct ModelReply {
    std::string content;  // empty if the model gave none
    std::vector<ToolCallRequest> tool_calls;
    std::string finish_reason;
    std::string model = {};         // that answered, as the reply says; empty if it does not
    std::string service_tier = {};  // likewise
    Usage usage;
    // The reply names more tokens than any model can have used; `usage` is then 0.
    bool usage_is_absurd = false;
};

struct ProviderError {
    ErrorKind kind = ErrorKind::Unknown;
    int http_status = 0;  // 0 = no response
    // The provider's text. May contain the user's text: never log it.
    std::string message;
    std::optional<Instant> retry_after;  // delay in microseconds
    // The reply has the form of a gateway's errors, so it does not come from a proxy in front of
    // it.
    bool is_of_gateway = false;
    // The service's failure and not the request's. Set by code that knows the results of its other
    // calls.
    bool of_service = false;
};

using ModelResult = std::variant<ModelReply, ProviderError>;

// More tool calls than this in one reply are dropped; a plan has far fewer steps.
inline constexpr std::size_t kMaxToolCallsPerReply = 128;

// Reads an HTTP response. Any bytes may be given; all texts that come out are valid UTF-8 without
// U+0000. Tool calls that are objects but lack a name or have odd arguments are kept, so that the
// planner can answer them; other values among them are dropped. A missing or repeated id is
// replaced by an invented one, which differs between calls with different `now`.
ModelResult parse_model_response(int http_status, std::string_view body,
                                 std::string_view retry_after_header, Instant now);

// Why a successful reply, which was paid for, must not be used for a plan: its finish_reason says
// that a filter has emptied it, or that it was cut off.
std::optional<ErrorKind> failure_in(const ModelReply& reply) noexcept;

// Optional parameters of a request. Empty: not sent, since some services refuse them.
struct ServiceWishes {
    std::string service_tier;
    std::string prompt_cache_key;
};

struct ChatRequest {
    std::string_view model;
    const std::vector<std::string>& messages;  // each a serialized JSON object
    std::string_view tools_json;               // serialized array; empty or "[]" = none
    double temperature = 0.3;
    std::int64_t max_tokens = 0;  // of the reply; 0 = the model's own limit
    // Of this request only, at the end of the last message: below a user's text, or in a member
    // "reminder" of a tool's answer. Some provider refuses or misreads a separate message of any
    // role: docs/architecture.md, Decided otherwise.
    std::string closing_text = {};
    ServiceWishes wishes = {};
};

// For a reply whose body names no tier: what the header of the response says. Only tiers that have
// prices of their own; accounts without such tiers get other words there.
void name_served_tier(ModelReply& reply, std::string_view header);

// Whether the service has no capacity at the requested tier, or no such tier: then the standard one
// is worth an attempt. Only for requests with a tier.
bool is_refusal_of_tier(const ProviderError& error) noexcept;

// A request body, and how much of its beginning others share.
struct ChatBody {
    std::string text;
    std::size_t of_all = 0;  // bytes that depend on tools and temperature only
    // Bytes with which the run's next request begins too, if its history only grows and nothing but
    // the messages and the closing text is different.
    std::size_t of_run = 0;
};

// Messages and tools are copied as they are, so that no round serializes the whole history again.
ChatBody build_chat_request(const ChatRequest& request);

// Part of the version of a prompt (docs/lineage.md): to be increased when the same request would
// give another body.
inline constexpr int kChatLayout = 2;

// One message each, serialized.
std::string system_message(std::string_view text);
std::string user_message(std::string_view text);
// Arguments that are not a JSON object are replaced by `{}`: several servers parse the history and
// would refuse the whole request. The tool message that follows says what was wrong. In a message
// with calls, a missing text is null and not "": Gemini and Claude refuse an empty text, and
// mana-llm makes one of "".
std::string assistant_message(const ModelReply& reply);
std::string tool_message(std::string_view tool_call_id, std::string_view content_json);

// The part of a model's name before '/', else "unknown".
std::string provider_of(std::string_view model);

}  // namespace mana_ai::core
