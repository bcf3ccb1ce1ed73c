// The German prompts of the planner. docs/contract/tick.md, Prompts.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "mana_ai/core/record/records.hpp"
#include "mana_ai/core/time/instant.hpp"

namespace mana_ai::core {

// What a mission reads. docs/contract/inputs.md.
struct ResolvedInput {
    std::string id;
    std::string module;
    std::string table;
    std::string title;
    std::string content;
};

// The most characters of each text that a prompt takes over; longer ones are cut and end in "…".
struct PromptLimits {
    static constexpr std::size_t title = 500;
    static constexpr std::size_t objective = 20'000;
    static constexpr std::size_t concept_markdown = 50'000;
    static constexpr std::size_t persona = 20'000;
    static constexpr std::size_t memory = 50'000;
    static constexpr std::size_t all_inputs = 100'000;  // docs/contract/inputs.md
    static constexpr std::size_t feedback = 2'000;
    static constexpr std::size_t iteration_summary = 1'000;
    static constexpr std::size_t step_summary = 200;
    static constexpr std::size_t iterations = 3;            // the last ones
    static constexpr std::size_t steps_per_iteration = 25;  // the first ones
};

// The job and its rules, then agent_context, agent_persona and agent_memory as far as present.
// Null = no agent.
std::string system_prompt(const Agent* agent);

// The mission: title, concept, objective and inputs, then what changes from run to run: the last
// three iterations with the user's feedback, and the local time if it is given. What changes least
// comes first, so that providers can cache the prefix. Whatever users or other models wrote is
// fenced with fence_user_data(). Never throws on iterations of any shape. With `research_failed`
// it says so after the inputs, lest the model invents what was not found.
std::string user_prompt(const Mission& mission, const std::vector<ResolvedInput>& inputs,
                        const std::optional<CivilTime>& local_now = std::nullopt,
                        bool research_failed = false);

// What is ours in the prompts, whatever the mission: to tell one version of them from another.
std::string prompt_text();

// The text between <user_data> and </user_data>, on lines of their own. Ciphertext becomes
// "[verschlüsselt]".
std::string fence_user_data(std::string_view text, std::size_t max_chars);

// Takes the angle bracket from everything that could pass for one of our own tags (user_data,
// agent_context, agent_persona, agent_memory, reminder, compact-summary), in any case and with
// spaces, separators or invisible characters in between. Also makes the text valid UTF-8 without
// control characters other than tab and line feed.
std::string neutralise_tags(std::string_view text);

}  // namespace mana_ai::core
