#include "mana_ai/core/service/model_wire.hpp"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <iterator>
#include <set>

#include "mana_ai/core/service/http_status.hpp"
#include "mana_ai/core/service/retry_after.hpp"
#include "mana_ai/core/text/ascii.hpp"
#include "mana_ai/core/text/json.hpp"
#include "mana_ai/core/text/json_member.hpp"
#include "mana_ai/core/text/utf8.hpp"
#include "mana_ai/core/text/wipe.hpp"

namespace mana_ai::core {

namespace {

constexpr std::size_t kMaxErrorMessageChars = 1000;
constexpr std::size_t kMaxTierName = 40;  // characters

// The string member, or "" if there is none.
std::string text_member(const Json* object, const char* key) {
    return object == nullptr ? std::string() : std::string(string_or(*object, key, ""));
}

std::string without_nul(std::string text) {
    std::erase(text, '\0');
    return text;
}

// A token count that may be missing, a float, negative or too large; then it is kMaxTokenCount + 1.
std::int64_t token_count(const Json* usage, const char* key) {
    const Json* count = member(usage, key);
    if (count == nullptr || !count->is_number()) {
        return 0;
    }
    const auto value = count->get<double>();
    return std::llround(std::clamp(value, 0.0, static_cast<double>(kMaxTokenCount + 1)));
}

// The prompt's tokens from the provider's cache, in the spelling of OpenAI and mana-llm, Moonshot,
// DeepSeek, Anthropic.
std::int64_t cached_tokens(const Json* usage) {
    return std::max({token_count(member(usage, "prompt_tokens_details"), "cached_tokens"),
                     token_count(usage, "cached_tokens"),
                     token_count(usage, "prompt_cache_hit_tokens"),
                     token_count(usage, "cache_read_input_tokens")});
}

Usage read_usage(const Json* usage) {
    Usage read;
    read.prompt = token_count(usage, "prompt_tokens");
    read.completion = token_count(usage, "completion_tokens");
    // Some leave it out.
    read.total = std::max(token_count(usage, "total_tokens"), read.prompt + read.completion);
    read.reasoning = token_count(member(usage, "completion_tokens_details"), "reasoning_tokens");
    // Gemini's total includes reasoning that its completion does not; it is paid for like the rest.
    const std::int64_t unnamed = read.total - read.prompt - read.completion;
    if (unnamed > 0 && read.prompt > 0) {
        read.completion += unnamed;
        read.reasoning = std::max(read.reasoning, unnamed);
    }
    read.reasoning = std::min(read.reasoning, read.completion);
    read.cached = std::min(cached_tokens(usage), read.prompt);
    return read;
}

// Text, or the texts of an array of parts; other parts (images, audio) are left out.
std::string read_content(const Json* message) {
    const Json* content = member(message, "content");
    if (content == nullptr || content->is_null()) {
        return text_member(message, "refusal");
    }
    if (content->is_string()) {
        return content->get<std::string>();
    }
    std::string joined;
    if (content->is_array()) {
        for (const Json& part : *content) {
            joined += part.is_string() ? part.get<std::string>() : text_member(&part, "text");
        }
    }
    return joined;
}

// The arguments as JSON text; an object given instead of text is serialized. A text with an escaped
// U+0000 is rewritten without it, since no jsonb could hold the call.
std::string read_arguments(const Json* function) {
    const Json* arguments = member(function, "arguments");
    if (arguments == nullptr || arguments->is_null()) {
        return {};
    }
    if (!arguments->is_string()) {
        Json copy = *arguments;
        remove_nul(copy);
        return dump_json(copy);
    }
    std::string text = without_nul(arguments->get<std::string>());
    if (text.find("\\u0000") != std::string::npos) {
        if (std::optional<Json> parsed = parse_json(text)) {
            remove_nul(*parsed);
            return dump_json(*parsed);
        }
    }
    return text;
}

// Nine letters and digits, the only form that every provider accepts (Mistral is the strict one).
std::string invent_id(std::uint64_t seed) {
    constexpr std::string_view kAlphabet = "0123456789abcdefghijklmnopqrstuvwxyz";
    // splitmix64's finalizer: adjacent seeds give different ids.
    seed += 0x9E3779B97F4A7C15U;
    seed = (seed ^ (seed >> 30)) * 0xBF58476D1CE4E5B9U;
    seed = (seed ^ (seed >> 27)) * 0x94D049BB133111EBU;
    seed ^= seed >> 31;
    std::string id = "c";
    for (int i = 0; i < 8; ++i) {
        id += kAlphabet[seed % kAlphabet.size()];
        seed /= kAlphabet.size();
    }
    return id;
}

std::string read_id(const Json& call) {
    const Json* id = member(&call, "id");
    if (id == nullptr) {
        return {};
    }
    if (id->is_string()) {
        return without_nul(id->get<std::string>());
    }
    return id->is_number() ? dump_json(*id) : std::string();
}

ToolCallRequest read_tool_call(const Json& call) {
    // Some servers leave the "function" level out.
    const Json* function = member(&call, "function");
    if (function == nullptr || !function->is_object()) {
        function = &call;
    }
    return {read_id(call), without_nul(text_member(function, "name")), read_arguments(function)};
}

void make_ids_unique(std::vector<ToolCallRequest>& calls, Instant now) {
    std::set<std::string> given;
    for (const ToolCallRequest& call : calls) {
        given.insert(call.id);
    }
    std::set<std::string> used;
    auto seed = static_cast<std::uint64_t>(now);
    for (ToolCallRequest& call : calls) {
        if (call.id.empty() || used.contains(call.id)) {
            do {
                call.id = invent_id(seed++);
            } while (used.contains(call.id) || given.contains(call.id));
        }
        used.insert(call.id);
    }
}

std::vector<ToolCallRequest> read_tool_calls(const Json* message, Instant now) {
    std::vector<ToolCallRequest> calls;
    const Json* given = member(message, "tool_calls");
    if (given != nullptr && given->is_array()) {
        for (const Json& call : *given) {
            if (calls.size() == kMaxToolCallsPerReply) {
                break;
            }
            if (call.is_object()) {
                calls.push_back(read_tool_call(call));
            }
        }
    } else if (given != nullptr && given->is_object()) {
        calls.push_back(read_tool_call(*given));
    } else if (const Json* legacy = member(message, "function_call");
               legacy != nullptr && legacy->is_object()) {
        calls.push_back(read_tool_call(*legacy));
    }
    make_ids_unique(calls, now);
    return calls;
}

ErrorKind kind_of_status(int http_status) {
    switch (http_status) {
        case 413:
            return ErrorKind::Capability;
        case 401:
        case 403:
            return ErrorKind::Auth;
        case 422:
            return ErrorKind::Blocked;
        case 429:
            return ErrorKind::RateLimit;
        default:
            return ErrorKind::Unknown;
    }
}

// The kind that an OpenAI-style type or code names, if it is more specific than the status.
std::optional<ErrorKind> kind_of_code(std::string_view code) {
    if (code == "content_filter" || code == "content_policy_violation") {
        return ErrorKind::Blocked;
    }
    if (code == "authentication_error" || code == "invalid_api_key" || code == "permission_error") {
        return ErrorKind::Auth;
    }
    if (code == "rate_limit_exceeded" || code == "rate_limit_error" ||
        code == "insufficient_quota") {
        return ErrorKind::RateLimit;
    }
    if (code == "context_length_exceeded") {
        return ErrorKind::Capability;
    }
    return std::nullopt;
}

struct ErrorBody {
    std::optional<ErrorKind> kind;
    std::string message;
    int status = 0;  // that the error itself names, of the gateway's provider; 0 = none
};

// Some gateways put an HTTP status there.
int status_of_code(const Json* code) {
    const std::int64_t status =
        code != nullptr && code->is_number_integer() ? code->get<std::int64_t>() : 0;
    return status >= 400 && status < 600 ? static_cast<int>(status) : 0;
}

// {detail: text}, {detail: {kind, message}}, {error: {message, type, code}}, {error: text}.
ErrorBody read_error_body(const Json* body) {
    if (const Json* detail = member(body, "detail"); detail != nullptr) {
        if (detail->is_string()) {
            return {std::nullopt, detail->get<std::string>()};
        }
        if (detail->is_object()) {
            std::optional<ErrorKind> kind = error_kind_from_name(string_or(*detail, "kind", ""));
            // "unknown" is less specific than a status.
            if (kind == ErrorKind::Unknown) {
                kind.reset();
            }
            return {kind, text_member(detail, "message")};
        }
        // A list of validation errors: the form of the request is wrong, not its content.
        return {ErrorKind::Unknown, dump_json(*detail)};
    }
    const Json* error = member(body, "error");
    if (error == nullptr) {
        return {std::nullopt, text_member(body, "message")};
    }
    if (error->is_string()) {
        return {std::nullopt, error->get<std::string>()};
    }
    ErrorBody read;
    read.message = text_member(error, "message");
    read.status = status_of_code(member(error, "code"));
    const std::string code = text_member(error, "code");
    const std::string type = text_member(error, "type");
    read.kind = kind_of_code(code);
    if (!read.kind) {
        read.kind = kind_of_code(type);
    }
    if (!read.kind && kind_of_status(read.status) != ErrorKind::Unknown) {
        read.kind = kind_of_status(read.status);
    }
    // The key is accepted, but may not do this.
    if (read.status == 0 && (code == "permission_error" || type == "permission_error")) {
        read.status = 403;
    }
    return read;
}

// A gateway that has sent its own status before its provider answers names the provider's in the
// body. With those that a later attempt may not get, it remains a success without a completion.
int status_of_failure(int http_status, const ErrorBody& body) {
    constexpr int kRequestTimeout = 408;
    const bool is_of_request =
        body.status >= 400 && body.status < 500 && body.status != kRequestTimeout;
    return is_success(http_status) && is_of_request ? body.status : http_status;
}

ProviderError read_error(int http_status, const Json* body, std::string_view raw_body,
                         std::string_view retry_after_header, Instant now) {
    ErrorBody read = read_error_body(body);
    ProviderError error;
    error.http_status = status_of_failure(http_status, read);
    error.is_of_gateway = read.kind || !read.message.empty();
    // A success without a completion is malformed unless its body names another kind.
    error.kind = read.kind.value_or(
        is_success(error.http_status) ? ErrorKind::Malformed : kind_of_status(error.http_status));
    // OpenAI and Groq refuse a request with more tokens than the limit per minute in this way; a
    // later attempt would not help.
    if (error.kind == ErrorKind::RateLimit &&
        read.message.find("Request too large") != std::string::npos) {
        error.kind = ErrorKind::Capability;
    }
    if (read.message.empty() && !is_success(http_status)) {
        read.message = repair_utf8(raw_body.substr(0, 8 * kMaxErrorMessageChars));
    }
    error.message = cut_utf8(without_nul(std::move(read.message)), kMaxErrorMessageChars);
    error.retry_after = parse_retry_after(retry_after_header, now);
    if (!error.retry_after && !is_success(error.http_status)) {
        error.retry_after = retry_after_in_body(raw_body);
    }
    return error;
}

// The part of a success that says what went wrong; null: none does.
const Json* part_with_error(const Json* root, const Json* choice) {
    for (const Json* part : {root, choice}) {
        if (const Json* error = member(part, "error"); error != nullptr && error->is_object()) {
            return part;
        }
    }
    return nullptr;
}

// The code unit of an escape like "\ud83d" at the start of the text.
std::optional<unsigned> escaped_unit(std::string_view text) {
    unsigned unit = 0;
    if (!text.starts_with("\\u") || text.size() < 6 ||
        std::from_chars(text.data() + 2, text.data() + 6, unit, 16).ptr != text.data() + 6) {
        return std::nullopt;
    }
    return unit;
}

// Replaces escaped unpaired surrogates by U+FFFD.
std::string repair_surrogates(std::string_view json) {
    std::string repaired;
    repaired.reserve(json.size());
    while (!json.empty()) {
        if (json.front() != '\\') {
            const std::size_t plain = std::min(json.find('\\'), json.size());
            repaired += json.substr(0, plain);
            json.remove_prefix(plain);
            continue;
        }
        std::size_t length = std::min<std::size_t>(2, json.size());
        if (const auto unit = escaped_unit(json)) {
            const auto next = escaped_unit(json.substr(6));
            const bool is_pair =
                *unit >= 0xD800 && *unit < 0xDC00 && next && *next >= 0xDC00 && *next < 0xE000;
            length = is_pair ? 12 : 6;
            if (!is_pair && *unit >= 0xD800 && *unit < 0xE000) {
                repaired += "\\ufffd";
                json.remove_prefix(length);
                continue;
            }
        }
        repaired += json.substr(0, length);
        json.remove_prefix(length);
    }
    return repaired;
}

// Invalid UTF-8 and unpaired surrogates, as from a model's token that was cut in two, are repaired
// instead of losing the reply.
std::optional<Json> parse_body(std::string_view body) {
    std::optional<Json> parsed = parse_json(body);
    if (!parsed) {
        const std::string repaired = repair_surrogates(repair_utf8(body));
        if (repaired != body) {
            parsed = parse_json(repaired);
        }
    }
    return parsed;
}

bool is_json_object(std::string_view text) {
    const std::optional<Json> parsed = parse_json(text);
    return parsed && parsed->is_object();
}

std::string text_message(std::string_view role, std::string_view text) {
    constexpr std::string_view kRole = R"({"role":")";
    constexpr std::string_view kContent = R"(","content":)";
    std::string quoted = json_string(text);
    std::string message;
    message.reserve(kRole.size() + role.size() + kContent.size() + quoted.size() + 1);
    message += kRole;
    message += role;
    message += kContent;
    message += quoted;
    message += '}';
    wipe(quoted);
    return message;
}

// The text in its escaped form, without the quotes of a JSON string.
std::string escaped(std::string_view text) {
    const std::string quoted = json_string(text);
    return quoted.substr(1, quoted.size() - 2);
}

// Appends a message of user_message() or tool_message() with a text at the end of its content. The
// text is spliced in, so that the message is not copied to memory that nobody wipes.
void append_with_closing(std::string& body, std::string_view message, std::string_view text) {
    constexpr std::string_view kEnd = "\"}";
    constexpr std::string_view kEndOfAnswer = "}\"}";  // the answer is an object, as JSON text
    const bool is_answer =
        message.starts_with(R"({"role":"tool")") && message.ends_with(kEndOfAnswer);
    message.remove_suffix(is_answer ? kEndOfAnswer.size() : kEnd.size());
    body += message;
    if (is_answer) {
        const std::string comma = message.ends_with('{') ? "" : ",";
        body += escaped(comma + R"("reminder":)" + json_string(text)) + "}";
    } else {
        body += escaped("\n\n" + std::string(text));
    }
    body += kEnd;
}

}  // namespace

Usage& Usage::operator+=(const Usage& other) noexcept {
    prompt += other.prompt;
    completion += other.completion;
    total += other.total;
    cached += other.cached;
    reasoning += other.reasoning;
    return *this;
}

std::optional<ErrorKind> failure_in(const ModelReply& reply) noexcept {
    if (reply.finish_reason == "content_filter") {
        return ErrorKind::Blocked;
    }
    // The second is Mistral's name for a full context.
    if (reply.finish_reason == "length" || reply.finish_reason == "model_length") {
        return ErrorKind::Truncated;
    }
    // The provider has failed in the middle of the reply, which a gateway passes on.
    if (reply.finish_reason == "error") {
        return ErrorKind::Unknown;
    }
    return std::nullopt;
}

void name_served_tier(ModelReply& reply, std::string_view header) {
    if (!reply.service_tier.empty()) {
        return;
    }
    const std::string said = ascii::lower_case(ascii::trimmed(header.substr(0, kMaxTierName)));
    if (said == "flex" || said == "priority" || said == "standard") {
        reply.service_tier = said;
    }
}

// OpenAI says 429 (resource_unavailable), Groq 498 (capacity_exceeded), Gemini 503 or 429, Azure
// 400 when the model has no such tier; a timeout means that the call has waited for capacity.
bool is_refusal_of_tier(const ProviderError& error) noexcept {
    if (error.kind == ErrorKind::RateLimit || error.kind == ErrorKind::Timeout ||
        error.http_status == 498) {
        return true;
    }
    if (error.kind != ErrorKind::Unknown && error.kind != ErrorKind::Blocked) {
        return false;
    }
    const bool names_tier = error.message.find("service_tier") != std::string::npos ||
                            error.message.find("service tier") != std::string::npos;
    return error.http_status == 503 ||
           ((error.http_status == 400 || error.http_status == 422) && names_tier);
}

ModelResult parse_model_response(int http_status, std::string_view body,
                                 std::string_view retry_after_header, Instant now) {
    const std::optional<Json> parsed = parse_body(body);
    const Json* root = parsed ? &*parsed : nullptr;
    const Json* choices = is_success(http_status) ? member(root, "choices") : nullptr;
    const bool has_choice = choices != nullptr && choices->is_array() && !choices->empty();
    const Json* choice = has_choice ? &choices->front() : nullptr;
    const Json* message = member(choice, "message");
    const bool has_message = message != nullptr && message->is_object();
    ModelReply reply;
    if (has_message) {
        reply.content = without_nul(read_content(message));
        reply.tool_calls = read_tool_calls(message, now);
    }
    reply.finish_reason = without_nul(text_member(choice, "finish_reason"));
    reply.model = cut_utf8(without_nul(text_member(root, "model")), kMaxModelName);
    reply.service_tier = cut_utf8(without_nul(text_member(root, "service_tier")), kMaxTierName);
    reply.usage = read_usage(member(root, "usage"));
    const bool is_empty = reply.content.empty() && reply.tool_calls.empty();
    const Json* failed =
        is_success(http_status) && is_empty ? part_with_error(root, choice) : nullptr;
    if (!has_message || failed != nullptr) {
        ProviderError error = read_error(http_status, failed != nullptr ? failed : root, body,
                                         retry_after_header, now);
        if (failed == nullptr || reply.usage.total == 0) {
            return error;
        }
        // Paid for all the same, so it is a reply that must not be used.
        reply.finish_reason = error.kind == ErrorKind::Blocked ? "content_filter" : "error";
    }
    if (std::max({reply.usage.prompt, reply.usage.completion, reply.usage.total}) >
        kMaxTokenCount) {
        reply.usage = {};
        reply.usage_is_absurd = true;
    }
    return reply;
}

// First what all requests of a process share, then what the rounds of a run share, the messages
// last: so a digest of a body can continue from that of an earlier one.
ChatBody build_chat_request(const ChatRequest& request) {
    char temperature[32];
    const double value = std::isfinite(request.temperature) ? request.temperature : 0.0;
    const auto end = std::to_chars(std::begin(temperature), std::end(temperature), value).ptr;

    std::size_t length = request.model.size() + request.tools_json.size() + 256 +
                         request.wishes.service_tier.size() +
                         request.wishes.prompt_cache_key.size();
    for (const std::string& message : request.messages) {
        length += message.size() + 1;
    }
    length += 2 * request.closing_text.size();
    ChatBody built;
    std::string& body = built.text;
    body.reserve(length);
    body += '{';
    if (!request.tools_json.empty() && request.tools_json != "[]") {
        body += R"("tools":)";
        body += request.tools_json;
        body += R"(,"tool_choice":"auto",)";
    }
    body += R"("temperature":)";
    body.append(std::begin(temperature), end);
    body += R"(,"stream":false,"model":)";
    built.of_all = body.size();
    body += json_string(request.model);
    if (request.max_tokens > 0) {
        body += R"(,"max_tokens":)" + std::to_string(request.max_tokens);
    }
    if (!request.wishes.service_tier.empty()) {
        body += R"(,"service_tier":)" + json_string(request.wishes.service_tier);
    }
    if (!request.wishes.prompt_cache_key.empty()) {
        body += R"(,"prompt_cache_key":)" + json_string(request.wishes.prompt_cache_key);
    }
    body += R"(,"messages":[)";
    built.of_run = body.size();
    for (const std::string& message : request.messages) {
        if (&message != &request.messages.front()) {
            body += ',';
        }
        if (&message == &request.messages.back() && !request.closing_text.empty()) {
            built.of_run = body.size();
            append_with_closing(body, message, request.closing_text);
        } else {
            body += message;
            built.of_run = body.size();
        }
    }
    body += "]}";
    return built;
}

std::string system_message(std::string_view text) {
    return text_message("system", text);
}

std::string user_message(std::string_view text) {
    return text_message("user", text);
}

std::string assistant_message(const ModelReply& reply) {
    if (reply.tool_calls.empty()) {
        return text_message("assistant", reply.content);
    }
    std::string message = R"({"role":"assistant","content":null})";
    if (!ascii::trimmed(reply.content).empty()) {
        message = text_message("assistant", reply.content);
    }
    message.pop_back();
    message += R"(,"tool_calls":[)";
    bool first = true;
    for (const ToolCallRequest& call : reply.tool_calls) {
        if (!first) {
            message += ',';
        }
        first = false;
        message += R"({"id":)" + json_string(call.id) +
                   R"(,"type":"function","function":{"name":)" + json_string(call.name) +
                   R"(,"arguments":)" +
                   json_string(is_json_object(call.arguments) ? call.arguments : "{}") + "}}";
    }
    message += "]}";
    return message;
}

std::string tool_message(std::string_view tool_call_id, std::string_view content_json) {
    return R"({"role":"tool","tool_call_id":)" + json_string(tool_call_id) + R"(,"content":)" +
           json_string(content_json) + '}';
}

std::string provider_of(std::string_view model) {
    const std::size_t slash = model.find('/');
    if (slash == std::string_view::npos || slash == 0) {
        return "unknown";
    }
    return std::string(model.substr(0, slash));
}

}  // namespace mana_ai::core
