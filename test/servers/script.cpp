#include "script.hpp"

#include <algorithm>
#include <array>
#include <stdexcept>

namespace mana_ai::test {

using nlohmann::json;

namespace {

constexpr std::array kStepKeys = {"status",   "error",       "retry_after", "retry_after_date",
                                  "headers",  "latency_ms",  "slow_ms",     "bytes_per_second",
                                  "reply",    "body",        "body_base64", "message",
                                  "usage",    "content",     "tool_calls",  "oversized_mib",
                                  "garbage",  "raw_garbage", "reset",       "close",
                                  "truncate", "hang",        "chunked",     "plan",
                                  "model",    "service_tier"};

void check_step(const json& step) {
    if (!step.is_object()) {
        throw std::invalid_argument("a step must be an object: " + step.dump());
    }
    for (const auto& [key, value] : step.items()) {
        if (std::find(kStepKeys.begin(), kStepKeys.end(), key) == kStepKeys.end()) {
            throw std::invalid_argument("unknown key in a step: " + key);
        }
    }
}

std::string decode_base64(std::string_view text) {
    constexpr std::string_view kAlphabet =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    std::string bytes;
    unsigned bits = 0;
    int count = 0;
    for (const char c : text) {
        const auto value = kAlphabet.find(c);
        if (value == std::string_view::npos) {
            continue;
        }
        bits = (bits << 6) | static_cast<unsigned>(value);
        count += 6;
        if (count >= 8) {
            count -= 8;
            bytes += static_cast<char>((bits >> count) & 0xffU);
        }
    }
    return bytes;
}

json wire_calls(const json& calls) {
    json out = json::array();
    for (const auto& call : calls) {
        const auto arguments = call.value("arguments", json::object());
        json wire = {{"type", "function"},
                     {"function",
                      {{"name", call.value("name", "")},
                       {"arguments", arguments.is_string() ? arguments : json(arguments.dump())}}}};
        const auto id = call.value("id", json("call_" + std::to_string(out.size() + 1)));
        if (!id.is_null()) {
            wire["id"] = id;
        }
        out.push_back(std::move(wire));
    }
    return out;
}

/// The reply around an assistant message, with the step's own usage if it has one.
std::string reply_with(const json& message, const json& step) {
    const bool calls = message.is_object() && message.contains("tool_calls");
    json reply = json::parse(completion(message.dump(), calls ? "tool_calls" : "stop",
                                        calls ? 1200 : 1500, calls ? 80 : 60, 1));
    if (const auto usage = step.find("usage"); usage != step.end()) {
        if (usage->is_null()) {
            reply.erase("usage");
        } else {
            reply["usage"] = *usage;
        }
    }
    for (const char* name : {"model", "service_tier"}) {
        if (const auto value = step.find(name); value != step.end()) {
            reply[name] = *value;
        }
    }
    return reply.dump();
}

std::string body_of(const json& step, int status, Planner& planner, std::string_view request) {
    if (step.contains("reply")) {
        return step["reply"].dump();
    }
    if (step.contains("body")) {
        return step["body"].get<std::string>();
    }
    if (step.contains("body_base64")) {
        return decode_base64(step["body_base64"].get_ref<const std::string&>());
    }
    if (step.value("garbage", false)) {
        return "\x01\xff{not json\xc3\x28 [[[";
    }
    if (step.contains("oversized_mib")) {
        const auto size = step["oversized_mib"].get<std::size_t>() * 1024 * 1024;
        return completion(R"({"role":"assistant","content":")" + std::string(size, 'x') + "\"}",
                          "stop", 1500, 60, 1);
    }
    if (step.contains("message")) {
        return reply_with(step["message"], step);
    }
    if (step.contains("tool_calls")) {
        return reply_with({{"role", "assistant"},
                           {"content", step.value("content", json())},
                           {"tool_calls", wire_calls(step["tool_calls"])}},
                          step);
    }
    if (step.contains("content")) {
        return reply_with({{"role", "assistant"}, {"content", step["content"]}}, step);
    }
    if (status != 200) {
        return json{{"detail", step.value("error", json("scripted failure"))}}.dump();
    }
    return planner.answer(request);
}

}  // namespace

Script::Script(const json& definition) {
    const json& steps = definition.is_array() ? definition : definition.value("steps", json());
    if (!steps.is_array()) {
        throw std::invalid_argument("a script needs a list of steps");
    }
    for (const auto& step : steps) {
        check_step(step);
        steps_.push_back(step);
    }
    if (definition.is_object()) {
        const auto repeat = definition.value("repeat", std::string("none"));
        if (repeat != "none" && repeat != "last" && repeat != "all") {
            throw std::invalid_argument("repeat must be none, last or all");
        }
        repeat_ = repeat == "last" ? Repeat::last : repeat == "all" ? Repeat::all : Repeat::none;
        per_mission_ = definition.value("per_mission", false);
    }
}

const json* Script::next(std::string_view request_body) {
    std::string mission;
    if (per_mission_) {
        // The system prompt, which may differ by agent, and the user prompt are a mission's first
        // messages.
        const auto request = json::parse(request_body, nullptr, false);
        if (request.is_object()) {
            for (const auto& message : request.value("messages", json::array())) {
                if (message.value("role", "") == "user") {
                    mission = message.value("content", json()).dump();
                    mission.resize(std::min(mission.size(), mission.find("<reminder>")));
                    break;
                }
            }
        }
    }
    std::size_t& place = places_[mission];
    if (place >= steps_.size() && !steps_.empty()) {
        if (repeat_ == Repeat::last) {
            return &steps_.back();
        }
        if (repeat_ == Repeat::all) {
            place = 0;
        }
    }
    return place < steps_.size() ? &steps_[place++] : nullptr;
}

void Script::rewind() {
    places_.clear();
}

Response perform(const json& step, Planner& planner, std::string_view request_body) {
    Response response;
    response.status = step.value("status", 200);
    response.delay_ms =
        step.value("latency_ms", std::int64_t{0}) + step.value("slow_ms", std::int64_t{0});
    response.bytes_per_second = step.value("bytes_per_second", std::int64_t{0});
    response.hang = step.value("hang", false);
    response.reset = step.value("reset", false);
    response.close = step.value("close", false);
    response.truncate = step.value("truncate", false);
    response.chunked = step.value("chunked", false);
    if (step.value("raw_garbage", false)) {
        response.raw = std::string("\x16\x03\x01\x00garbage, not HTTP\r\n\r\n", 24);
        return response;
    }
    if (step.contains("retry_after")) {
        response.headers.emplace_back("Retry-After", step["retry_after"].get<std::string>());
    }
    if (step.contains("retry_after_date")) {
        // Rounded up, so that waiting for that date is never too short.
        const auto at = now_us() / 1'000'000 + 1 + step["retry_after_date"].get<std::int64_t>();
        response.headers.emplace_back("Retry-After", http_date(at));
    }
    const json headers = step.value("headers", json::object());
    for (const auto& [name, value] : headers.items()) {
        response.headers.emplace_back(name, value.get<std::string>());
    }
    response.body = body_of(step, response.status, planner, request_body);
    return response;
}

std::string_view scenario_name(std::string_view text) {
    constexpr std::string_view kMark = "[[szenario:";
    const auto at = text.find(kMark);
    if (at == std::string_view::npos) {
        return {};
    }
    const auto start = at + kMark.size();
    const auto end = text.find("]]", start);
    return end == std::string_view::npos || end - start > 64 ? std::string_view{}
                                                             : text.substr(start, end - start);
}

}  // namespace mana_ai::test
