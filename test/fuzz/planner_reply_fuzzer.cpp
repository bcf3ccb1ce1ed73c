// Feeds HTTP bodies of any bytes into the planner loop and checks what must hold for all of them.
// The input is split at 0x1E (record separator) into the replies of the rounds; the first byte of
// each chooses the HTTP status.
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <optional>
#include <string_view>
#include <variant>
#include <vector>

#include "mana_ai/core/planner/planner_loop.hpp"
#include "mana_ai/core/record/iteration.hpp"

namespace {

using namespace mana_ai::core;

// One parameter of each type, a tool without parameters, and the one that is allowed once.
OfferedTools tools() {
    std::vector<Tool> catalog;
    catalog.push_back(
        *parse_tool("create_task", "todo", "Aufgabe anlegen. Eine je Aufruf.", "propose", R"([
        {"name": "title", "type": "string", "required": true, "description": "Titel"},
        {"name": "priority", "type": "string", "enum": ["low", "high"], "description": "Wie sehr"},
        {"name": "amount", "type": "number", "description": "Zahl"},
        {"name": "count", "type": "integer", "description": "Ganze Zahl"},
        {"name": "flag", "type": "boolean", "description": "Ja oder nein"},
        {"name": "props", "type": "object", "description": "Objekt"},
        {"name": "lines", "type": "array", "items": "string", "description": "Liste"}])"));
    catalog.push_back(*parse_tool("undo_drink", "drink", "Getränk zurücknehmen.", "propose", "[]"));
    return offer(catalog, nullptr);
}

void require(bool holds) {
    if (!holds) {
        std::abort();
    }
}

// What providers insist on; a finished loop makes no request, but its history is sound as well.
void require_answers_after_their_calls(const Json& messages) {
    std::vector<Json> open;  // ids, newest call first
    for (const Json& message : messages) {
        if (message.at("role") == "tool") {
            require(!open.empty() && open.back() == message.at("tool_call_id"));
            open.pop_back();
            continue;
        }
        require(open.empty());
        if (const auto calls = message.find("tool_calls"); calls != message.end()) {
            for (auto call = calls->rbegin(); call != calls->rend(); ++call) {
                open.push_back(call->at("id"));
            }
        }
    }
    require(open.empty());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    static const OfferedTools offered = tools();
    constexpr std::array<int, 4> kStatuses = {200, 200, 429, 500};
    constexpr std::array<PolicyMode, 3> kModes = {PolicyMode::Off, PolicyMode::LogOnly,
                                                  PolicyMode::Enforce};
    std::string_view rest(reinterpret_cast<const char*>(data), size);
    PlannerLoop loop("System", "Ziel", offered);
    Instant now = 0;
    while (!rest.empty() && !loop.finished()) {
        std::string_view body = rest.substr(0, rest.find('\x1E'));
        rest.remove_prefix(body.size() < rest.size() ? body.size() + 1 : rest.size());
        int status = 200;
        if (!body.empty()) {
            status = kStatuses[static_cast<unsigned char>(body[0]) % kStatuses.size()];
            // An opening brace is left in place, so that plain JSON files work as a corpus.
            body.remove_prefix(body[0] == '{' ? 0 : 1);
        }
        const ModelResult result = parse_model_response(status, body, "", ++now);
        if (const auto* reply = std::get_if<ModelReply>(&result)) {
            if (loop.compaction_due(1)) {
                require(parse_json(loop.compaction_request("fuzz/compact")).has_value());
                loop.on_compaction(*reply);
                require(!loop.compaction_due(1));
            } else {
                loop.on_reply(*reply, kModes[body.size() % kModes.size()]);
            }
        }
        const std::optional<Json> request =
            parse_json(loop.request_body("fuzz/model", reminders(loop.state())).text);
        require(request.has_value());
        require_answers_after_their_calls(request->at("messages"));
    }
    require(loop.rounds() <= PlannerLoop::kMaxRounds);
    require(loop.steps().size() <= kMaxPlanSteps);
    require(!loop.summary().empty());
    const std::string text = dump_json(build_iteration({"i", 0, 0, loop.steps(), loop.summary()}));
    require(parse_json(text).has_value());
    require(text.find("\\u0000") == std::string::npos || text.find("\\\\u0000") != text.npos);
    return 0;
}
