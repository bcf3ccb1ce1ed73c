#pragma once

// Scripts: what the model server does instead of planning. A script is a list of steps; every
// request that it applies to takes the next step. A step is a JSON object with any of
//
//   status            HTTP status, default 200; an error body unless `body` or `reply` is given
//   error             `detail` of the error body: text, or an object (mana-llm's {kind, message})
//   retry_after       header, sent as it is; retry_after_date: seconds from now, as an HTTP date
//   headers           object of more headers
//   latency_ms        wait before answering; slow_ms is added to it
//   bytes_per_second  send the answer at this rate
//   reply             the body, any JSON; body: any text; body_base64: any bytes
//   message           the assistant's message in an otherwise ordinary reply
//   content           a summary
//   tool_calls        list of {name, arguments: object or text, id?: text or null}
//   usage             usage of such a reply (null: none); model, service_tier: its other members
//   oversized_mib     a valid reply of that size
//   garbage           bytes that are not JSON; raw_garbage: bytes that are not HTTP
//   reset, close, truncate, hang, chunked   as in http_message.hpp
//   plan              answer as usual (to let a good turn follow bad ones)

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include <nlohmann/json.hpp>

#include "http_server.hpp"
#include "planner.hpp"

namespace mana_ai::test {

class Script {
 public:
    /// {"steps": [...], "repeat": "none" | "last" | "all", "per_mission": bool}, or just the list
    /// of steps. When the steps are used up, `none` (the default) resumes planning, `last` repeats
    /// the last step, `all` starts over. With per_mission every mission (identified by the user
    /// prompt) has its own place. Throws std::invalid_argument with a message for the person who
    /// wrote it.
    explicit Script(const nlohmann::json& definition);

    /// The next step for this request, nullptr when the request is to be planned as usual.
    const nlohmann::json* next(std::string_view request_body);

    /// Starts at the first step again.
    void rewind();

 private:
    enum class Repeat { none, last, all };

    std::vector<nlohmann::json> steps_;
    Repeat repeat_ = Repeat::none;
    bool per_mission_ = false;
    std::unordered_map<std::string, std::size_t> places_;
};

/// Carries out one step.
Response perform(const nlohmann::json& step, Planner& planner, std::string_view request_body);

/// The scenarios that prompts can ask for with `[[szenario:NAME]]` without any set-up.
const std::unordered_map<std::string, Script>& built_in_scenarios();

/// NAME of the first `[[szenario:NAME]]` in the text, empty if there is none.
std::string_view scenario_name(std::string_view text);

}  // namespace mana_ai::test
