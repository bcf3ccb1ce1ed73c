// One model call, at its turn and with its retries; and the choice of the model.
#pragma once

#include <cstddef>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "mana_ai/core/service/model_wire.hpp"
#include "mana_ai/extension/lease/claimed_mission.hpp"
#include "mana_ai/extension/run/mission_run.hpp"
#include "mana_ai/net/task.hpp"

namespace mana_ai {

// How long a run that has paid for replies waits for a service that refuses it or is unavailable,
// for each of its calls.
inline constexpr core::Instant kPatienceOfPaid = 2 * core::kMicrosPerMinute;

// The tier of a run's calls; empty = the standard one. If it is refused, or a call takes too long,
// the run continues at the standard tier.
struct ServiceTier {
    std::string name;
};

// Makes the body of a request to this model at this tier.
using BodyOf = std::function<core::ChatBody(const std::string& model, const std::string& tier)>;

struct CallWish {
    const std::string& model;
    ServiceTier& tier;
    bool has_paid = false;         // the run has replies that would be lost
    bool has_alternative = false;  // another model can be asked instead of waiting for an outage
};

// All references outlive the task.
net::Task<core::ModelResult> call_model(RunServices& services, const ClaimedMission& claimed,
                                        CallWish wish, const BodyOf& body_of);

// Whether the model's service has lately failed calls of other missions too, so that a failure says
// nothing about this one.
bool has_failed_others(RunServices& services, const ClaimedMission& claimed,
                       const std::string& model);

// The models that may plan, the preferred one first, and the run's present one. A run does not ask
// a model that has failed it again.
struct PlannerModels {
    std::vector<std::string> names;
    size_t current = 0;

    const std::string& name() const { return names.at(current); }
};

// As configured.
PlannerModels planner_models();

// A call of the run's model; or of the next one, if this one's gate is closed or it cannot handle
// the request. `models` says which was asked last.
net::Task<core::ModelResult> call_planner(RunServices& services, const ClaimedMission& claimed,
                                          PlannerModels& models, ServiceTier& tier, bool has_paid,
                                          const BodyOf& body_of);

}  // namespace mana_ai
