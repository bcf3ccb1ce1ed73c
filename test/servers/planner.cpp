#include "planner.hpp"

#include <algorithm>

namespace mana_ai::test {

using nlohmann::json;

namespace {

constexpr std::string_view kSummary =
    "Ich habe zwei Schritte vorgeschlagen, die zum Ziel der Mission passen. "
    "Bitte prüfe sie; danach geht es mit dem nächsten Schritt weiter.";
constexpr std::string_view kCompaction =
    "## Goal\nDas Ziel der Mission bleibt bestehen.\n\n## Decisions\nBisherige Vorschläge wurden "
    "angenommen.\n\n## Tools Called\nZwei Werkzeuge.\n\n## Current Progress\nDer Plan ist fast "
    "fertig.";

bool has(std::string_view text, std::string_view part) {
    return text.find(part) != std::string_view::npos;
}

json valid_value(const json& schema) {
    if (const auto found = schema.find("enum"); found != schema.end() && !found->empty()) {
        return found->front();
    }
    const auto type = schema.value("type", std::string("string"));
    if (type == "number" || type == "integer") {
        return schema.value("minimum", json(1));
    }
    if (type == "boolean") {
        return true;
    }
    if (type == "array") {
        return json::array(
            {schema.contains("items") ? valid_value(schema["items"]) : json("Beispieltext")});
    }
    if (type == "object") {
        auto arguments = valid_arguments(schema);
        return arguments.empty() ? json{{"wert", "Beispieltext"}} : arguments;
    }
    return "Beispieltext";  // long enough for every tool
}

}  // namespace

json valid_arguments(const json& schema) {
    json arguments = json::object();
    const auto required = schema.value("required", json::array());
    const auto properties = schema.value("properties", json::object());
    for (const auto& name : required) {
        const auto& key = name.get_ref<const std::string&>();
        arguments[key] = valid_value(properties.value(key, json::object()));
    }
    return arguments;
}

std::string completion(std::string_view message, std::string_view finish_reason, int prompt_tokens,
                       int completion_tokens, std::uint64_t number) {
    std::string text;
    text.reserve(message.size() + 320);
    text += R"({"id":"chatcmpl-)";
    text += std::to_string(number);
    text +=
        R"(","object":"chat.completion","created":1767225600,"model":"scripted","choices":[{"index":0,"message":)";
    text += message;
    text += R"(,"finish_reason":")";
    text += finish_reason;
    text += R"("}],"usage":{"prompt_tokens":)";
    text += std::to_string(prompt_tokens);
    text += R"(,"completion_tokens":)";
    text += std::to_string(completion_tokens);
    text += R"(,"total_tokens":)";
    text += std::to_string(prompt_tokens + completion_tokens);
    text += "}}";
    return text;
}

std::size_t json_value_end(std::string_view text, std::size_t start) {
    int depth = 0;
    for (auto at = start; at < text.size(); ++at) {
        switch (text[at]) {
            case '"':
                for (++at; at < text.size() && text[at] != '"'; ++at) {
                    at += text[at] == '\\' ? 1 : 0;
                }
                break;
            case '[':
            case '{':
                ++depth;
                break;
            case ']':
            case '}':
                if (--depth == 0) {
                    return at + 1;
                }
                break;
            default:
                break;
        }
    }
    return std::string_view::npos;
}

const std::string& Planner::calls_for(std::string_view tools_text) {
    std::string key(tools_text);
    auto found = calls_.find(key);
    if (found == calls_.end()) {
        json calls = json::array();
        const auto tools = json::parse(tools_text, nullptr, false);
        for (const auto& tool : tools.is_array() ? tools : json::array()) {
            if (calls.size() == 2) {
                break;
            }
            const auto& function = tool.at("function");
            const auto name = function.at("name").get<std::string>();
            if (name == "undo_drink") {
                continue;  // may stand in a plan only once, so a deterministic planner avoids it
            }
            const auto arguments = valid_arguments(function.value("parameters", json::object()));
            calls.push_back({{"id", "call_" + std::to_string(calls.size() + 1)},
                             {"type", "function"},
                             {"function", {{"name", name}, {"arguments", arguments.dump()}}}});
        }
        if (calls_.size() >= 256) {
            calls_.clear();
        }
        found = calls_.emplace(key, calls.empty() ? "" : calls.dump()).first;
    }
    last_tools_ = std::move(key);
    last_calls_ = &found->second;
    return found->second;
}

std::string Planner::answer(std::string_view body) {
    // Within a JSON string quotes are escaped, so these can only be keys and whole values.
    const bool first_turn = !has(body, R"("role":"tool")") && !has(body, R"("role": "tool")");
    ++replies_;
    std::string_view tools_key = R"("tools":[)";
    auto at = body.find(tools_key);
    if (at == std::string_view::npos) {
        tools_key = R"("tools": [)";
        at = body.find(tools_key);
    }
    if (first_turn && at != std::string_view::npos) {
        const auto start = at + tools_key.size() - 1;
        const std::string* calls = nullptr;
        if (last_calls_ != nullptr && body.substr(start, last_tools_.size()) == last_tools_) {
            calls = last_calls_;
        } else if (const auto end = json_value_end(body, start); end != std::string_view::npos) {
            calls = &calls_for(body.substr(start, end - start));
        }
        if (calls != nullptr && !calls->empty()) {
            const auto message =
                R"({"role":"assistant","content":null,"tool_calls":)" + *calls + "}";
            return completion(message, "tool_calls", 1200, 80, replies_);
        }
    }
    const auto text = has(body, "## Current Progress") ? kCompaction : kSummary;
    const auto message = R"({"role":"assistant","content":)" + json(text).dump() + "}";
    return completion(message, "stop", 1500, 60, replies_);
}

}  // namespace mana_ai::test
