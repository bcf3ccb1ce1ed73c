// The German prompts of the planner. docs/contract/tick.md, Prompts.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "mana_ai/core/record/prompt_limits.hpp"
#include "mana_ai/core/record/records.hpp"
#include "mana_ai/core/record/resolved_input.hpp"
#include "mana_ai/core/time/instant.hpp"

namespace mana_ai::core {

// The job and its rules, then agent_context, agent_persona and agent_memory as far as present.
// Null = no agent.
std::string system_prompt(const Agent* agent);

// The mission: title, concept, objective and inputs, then what changes from run to run: the last
// three iterations with the user's feedback, and the local time if it is given. What changes least
// comes first, so that providers can cache the prefix. Texts of users and other models are fenced
// with fence_user_data(). Never throws on iterations of any shape. With `research_failed` it says
// so after the inputs, so that the model does not invent results.
std::string user_prompt(const Mission& mission, const std::vector<ResolvedInput>& inputs,
                        const std::optional<CivilTime>& local_now = std::nullopt,
                        bool research_failed = false);

// The fixed part of the prompts, to distinguish their versions.
std::string prompt_text();

// The text between <user_data> and </user_data>, on lines of their own. Ciphertext becomes
// "[verschlüsselt]".
std::string fence_user_data(std::string_view text, std::size_t max_chars);

// Removes the angle bracket from everything that could pass for one of our own tags (user_data,
// agent_context, agent_persona, agent_memory, reminder, compact-summary), in any case and with
// spaces, separators or invisible characters in between. Also makes the text valid UTF-8 without
// control characters other than tab and line feed.
std::string neutralise_tags(std::string_view text);

}  // namespace mana_ai::core
