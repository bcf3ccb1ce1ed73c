// What a plan is based on: if none of it has changed, the next plan would be the same, and
// mana_ai.skip_unchanged saves the model call. docs/contract/tick.md, Gates.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "mana_ai/core/record/mission_input.hpp"
#include "mana_ai/core/record/records.hpp"
#include "mana_ai/core/text/json.hpp"

namespace mana_ai::core {

struct InputVersion {
    InputReference reference;
    std::string version;  // any text that changes when the record does; "" = no such record
};

// A canonical text of title, objective, concept, cadence, inputs with their versions, agent, model
// and the user's response to earlier iterations. Equal for two runs if and only if all of that is.
// It contains private data: store only a cryptographic hash of it. Null agent: none.
//
// An iteration counts with its status, feedback and the status of its steps, unless it is still as
// the server wrote it: so the basis is the same before and after a write-back. Texts are used as
// they are stored; ciphertext stays ciphertext.
std::string plan_basis(const Mission& mission, const Agent* agent,
                       const std::vector<InputVersion>& inputs, std::string_view model);

// The iterations' part of it, as a text.
std::string verdicts(const Json& iterations);

// Whether the cadence is to repeat the mission: interval, daily, weekly or cron, well-formed or
// not.
bool is_recurring(const Json& cadence) noexcept;

}  // namespace mana_ai::core
