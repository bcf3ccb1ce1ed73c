// One call of a model, at its turn and with the retries that belong to it; and which model that is.
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

// How long a run that has paid for replies waits for a service that refuses it or is away; each of
// its calls anew.
inline constexpr core::Instant kPatienceOfPaid = 2 * core::kMicrosPerMinute;

// The tier that a run's calls are to be served at; empty = the standard one. When it is refused, or
// a call at it takes too long, the run goes on at the standard tier.
struct ServiceTier {
    std::string name;
};

// Makes the body of a request to this model at this tier.
using BodyOf = std::function<std::string(const std::string& model, const std::string& tier)>;

struct CallWish {
    const std::string& model;
    ServiceTier& tier;
    bool has_paid = false;         // the run has replies that would be lost
    bool has_alternative = false;  // another model can be asked, so an outage is not waited for
};

// All references outlive the task.
net::Task<core::ModelResult> call_model(RunServices& services, const ClaimedMission& claimed,
                                        CallWish wish, const BodyOf& body_of);

// The models that may plan, the best one first, and the one that the run is at. What has failed it
// is not asked again by the same run.
struct PlannerModels {
    std::vector<std::string> names;
    size_t current = 0;

    const std::string& name() const { return names.at(current); }
};

// As configured.
PlannerModels planner_models();

// A call of the run's model; or of the next one, if the gate of this one is closed or it cannot do
// what it is asked. `models` says who was asked last.
net::Task<core::ModelResult> call_planner(RunServices& services, const ClaimedMission& claimed,
                                          PlannerModels& models, ServiceTier& tier, bool has_paid,
                                          const BodyOf& body_of);

}  // namespace mana_ai
