// What devices have made of a plan, and other versions of it lack. docs/contract/data.md, Lost
// plans.
#pragma once

#include <optional>
#include <string_view>
#include <vector>

#include "mana_ai/core/text/json.hpp"

namespace mana_ai::core {

// Whether a step has not been dealt with: its status is planned or staged.
bool is_open_step(std::string_view status) noexcept;

// The fields of `held` that have to be replaced so that nothing of `others` is lost: an object with
// plan, overallStatus and userFeedback, or those of them that change; nullopt: nothing is lost.
// `others` are further versions of the same iteration, the newest first. A step that is still open
// is replaced by the newest version of it that is not; steps belong together by place and id.
std::optional<Json> lost_progress(const Json& held, const std::vector<Json>& others);

}  // namespace mana_ai::core
