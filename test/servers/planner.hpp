#pragma once

// The model server's answers when no script applies: it plans like an obedient model.
// While the request holds no tool messages it calls the first two tools that it was offered, with
// arguments made from their schemas; then it answers with a summary. The same request always gets
// the same answer.

#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include <nlohmann/json.hpp>

namespace mana_ai::test {

class Planner {
 public:
    /// The body of a reply to this request body. Usage is 1200 + 80 tokens for a turn with tool
    /// calls and 1500 + 60 for a summary.
    std::string answer(std::string_view request_body);

 private:
    /// The array `tool_calls` as JSON text; remembered per list of tools, since thousands of
    /// requests offer the same and reading 40 KB of schemas each time would make this server the
    /// bottleneck.
    const std::string& calls_for(std::string_view tools_text);

    std::unordered_map<std::string, std::string> calls_;
    std::string last_tools_;
    const std::string* last_calls_ = nullptr;
    std::uint64_t replies_ = 0;
};

/// Arguments that satisfy the JSON schema of a tool's parameters: the required ones, the first of
/// an enum.
nlohmann::json valid_arguments(const nlohmann::json& schema);

/// A complete reply around an assistant message (JSON text).
std::string completion(std::string_view message, std::string_view finish_reason, int prompt_tokens,
                       int completion_tokens, std::uint64_t number);

/// Where the JSON value that begins at `start` ends (one past its last byte); npos if it does not.
std::size_t json_value_end(std::string_view text, std::size_t start);

}  // namespace mana_ai::test
