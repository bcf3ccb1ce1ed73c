#include "request_rules.hpp"

#include <algorithm>
#include <cctype>
#include <set>
#include <utility>

#include "planner.hpp"

namespace mana_ai::test {

using nlohmann::json;

namespace {

Response refuse(int status, const json& body) {
    Response response;
    response.status = status;
    response.body = body.dump();
    return response;
}

// mana-llm passes on what Gemini says like this.
Response refused_by_gemini(const std::string& words) {
    const std::string message = "Gemini call failed for gemini-2.5-flash: 400 INVALID_ARGUMENT. " +
                                json{{"error", {{"code", 400}, {"message", words}}}}.dump();
    return refuse(502, {{"detail", {{"kind", "unknown"}, {"message", message}}}});
}

Response refused_by_openai(const std::string& words) {
    return refuse(
        400,
        {{"error", {{"message", words}, {"type", "invalid_request_error"}, {"code", nullptr}}}});
}

Response refused_by_mistral(const std::string& words) {
    return refuse(400, {{"object", "error"},
                        {"message", words},
                        {"type", "invalid_request_message_order"},
                        {"param", nullptr},
                        {"code", "3230"}});
}

bool has_empty_text(const json& content) {
    if (content.is_string()) {
        return content.get_ref<const std::string&>().empty();
    }
    for (const json& part : content.is_array() ? content : json::array()) {
        if (part.is_object() && part.value("type", "") == "text" &&
            part.value("text", "").empty()) {
            return true;
        }
    }
    return false;
}

// The text of the array that is this member of the body; empty if there is none.
std::string_view array_text(std::string_view body, const std::string& member) {
    for (const char* separator : {"\":[", "\": ["}) {
        const std::string key = "\"" + member + separator;
        const auto at = body.find(key);
        if (at == std::string_view::npos) {
            continue;
        }
        const auto start = at + key.size() - 1;
        const auto end = json_value_end(body, start);
        if (end != std::string_view::npos) {
            return body.substr(start, end - start);
        }
    }
    return {};
}

// What Gemini dislikes about a schema of parameters; empty if nothing.
std::string fault_of(const json& schema, const std::string& path) {
    const auto type = schema.value("type", "");
    if (type == "array") {
        const auto items = schema.find("items");
        return items == schema.end() ? path + ".items: missing field"
                                     : fault_of(*items, path + ".items");
    }
    if (const auto values = schema.find("enum"); values != schema.end()) {
        const auto empty = std::find(values->begin(), values->end(), "");
        if (empty != values->end()) {
            return path + ".enum[" + std::to_string(empty - values->begin()) + "]: cannot be empty";
        }
    }
    if (type != "object") {
        return {};
    }
    const auto properties = schema.value("properties", json::object());
    if (properties.empty()) {
        return path + ".properties: should be non-empty for OBJECT type";
    }
    for (const auto& [name, property] : properties.items()) {
        if (auto fault = fault_of(property, path + ".properties[" + name + "]"); !fault.empty()) {
            return fault;
        }
    }
    return {};
}

// Tools are long, and the same in thousands of requests.
std::string fault_of_tools(std::string_view text) {
    thread_local std::string last_text, last_fault;
    if (text != last_text) {
        last_text = text;
        last_fault.clear();
        const json tools = json::parse(text, nullptr, false);
        for (std::size_t i = 0; tools.is_array() && i < tools.size() && last_fault.empty(); ++i) {
            const json function = tools[i].value("function", json::object());
            const std::string path = "* GenerateContentRequest.tools[0].function_declarations[" +
                                     std::to_string(i) + "]";
            const std::string name = function.value("name", "");
            const bool begins_well =
                !name.empty() &&
                (std::isalpha(static_cast<unsigned char>(name[0])) != 0 || name[0] == '_');
            last_fault = begins_well ? fault_of(function.value("parameters", json::object()),
                                                path + ".parameters")
                                     : path + ".name: [FIELD_INVALID] Invalid function name.";
        }
    }
    return last_fault;
}

}  // namespace

std::optional<Response> refusal_of(std::string_view request_body) {
    if (auto fault = fault_of_tools(array_text(request_body, "tools")); !fault.empty()) {
        return refused_by_gemini(fault);
    }
    const json messages = json::parse(array_text(request_body, "messages"), nullptr, false);
    std::set<std::string> unanswered;
    std::string before;  // the role of the message before
    for (const json& message : messages.is_array() ? messages : json::array()) {
        const std::string role = message.value("role", "");
        const bool calls = !message.value("tool_calls", json::array()).empty();
        const std::string last = std::exchange(before, role);
        if (role == "system" && !last.empty()) {
            return refuse(400,
                          {{"detail", "of several system messages only the last would count"}});
        }
        if (calls && last == "assistant") {
            return refused_by_gemini(
                "Please ensure that function call turn comes immediately after a user turn or "
                "after "
                "a function response turn.");
        }
        if ((role == "user" && last == "tool") || (role == last && role != "tool")) {
            return refused_by_mistral("Unexpected role '" + role + "' after role '" + last + "'");
        }
        if (has_empty_text(message.value("content", json()))) {
            return refused_by_gemini(
                "Unable to submit request because it has an empty text parameter.");
        }
        if (role == "tool") {
            if (unanswered.erase(message.value("tool_call_id", "")) == 0) {
                return refused_by_openai(
                    "messages with role 'tool' must be a response to a preceding message with "
                    "'tool_calls'.");
            }
            continue;
        }
        if (!unanswered.empty()) {
            return refused_by_openai(
                "An assistant message with 'tool_calls' must be followed by tool messages "
                "responding to each 'tool_call_id'.");
        }
        for (const json& call : message.value("tool_calls", json::array())) {
            unanswered.insert(call.value("id", ""));
        }
    }
    return std::nullopt;
}

}  // namespace mana_ai::test
