#pragma once

// What real providers refuse in the messages and the tools of a request. The scripted model refuses
// it too, with their words and statuses, so that no test passes with a request that a real model
// would not take. test/data/message_rules.jsonl has cases and where each rule was seen.

#include <optional>
#include <string>
#include <string_view>

#include "http_server.hpp"

namespace mana_ai::test {

/// The refusal of a request body; nullopt if every known provider would take it.
std::optional<Response> refusal_of(std::string_view request_body);

}  // namespace mana_ai::test
