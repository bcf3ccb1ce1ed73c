// How much of each text reaches the prompt. docs/contract/tick.md, Prompts.
#pragma once

#include <cstddef>

namespace mana_ai::core {

// The maximum characters of each text in a prompt; longer ones are cut and end in "…".
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

}  // namespace mana_ai::core
