// Two bytes of status, then a body: every response is read, and what was read can be sent again.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <set>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "mana_ai/core/service/model_wire.hpp"
#include "mana_ai/core/text/json.hpp"
#include "mana_ai/core/text/utf8.hpp"

namespace {

using namespace mana_ai::core;

void require(bool condition) {
    if (!condition) {
        std::abort();
    }
}

bool is_clean(const std::string& text) {
    return repair_utf8(text) == text;
}

void check(const ModelReply& reply) {
    require(is_clean(reply.content) && is_clean(reply.finish_reason));
    require(reply.usage.prompt >= 0 && reply.usage.completion >= 0 && reply.usage.total >= 0);
    require(reply.usage.cached >= 0 && reply.usage.cached <= reply.usage.prompt);
    require(reply.usage.reasoning >= 0 && reply.usage.reasoning <= reply.usage.completion);
    require(reply.tool_calls.size() <= kMaxToolCallsPerReply);
    std::set<std::string> ids;
    std::vector<std::string> messages = {assistant_message(reply)};
    for (const ToolCallRequest& call : reply.tool_calls) {
        require(!call.id.empty() && ids.insert(call.id).second);
        require(is_clean(call.id) && is_clean(call.name) && is_clean(call.arguments));
        messages.push_back(tool_message(call.id, call.arguments));
    }
    const ChatBody body = build_chat_request(
        {.model = reply.content, .messages = messages, .tools_json = {}, .temperature = 0.3});
    require(parse_json(body.text).has_value());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    if (size < 2) {
        return 0;
    }
    const int status = data[0] < 128 ? 200 : 100 + data[0] + 2 * data[1];
    const std::string_view body(reinterpret_cast<const char*>(data) + 2, size - 2);
    const ModelResult result = parse_model_response(status, body, body.substr(0, 32), size);
    if (const auto* reply = std::get_if<ModelReply>(&result)) {
        check(*reply);
    } else {
        require(is_clean(std::get<ProviderError>(result).message));
    }
    return 0;
}
