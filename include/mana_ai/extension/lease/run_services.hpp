// What the runs of a process share.
#pragma once

#include <string>

#include "mana_ai/core/planner/tool_catalog.hpp"
#include "mana_ai/extension/lease/database_jobs.hpp"
#include "mana_ai/extension/lease/service_gates.hpp"
#include "mana_ai/extension/lease/stops.hpp"
#include "mana_ai/extension/sync/table_patience.hpp"
#include "mana_ai/extension/watch/tracing.hpp"
#include "mana_ai/net/event_loop.hpp"
#include "mana_ai/net/http_client.hpp"

namespace mana_ai {

class GrantKey;          // extension/input
class ResolverPatience;  // likewise

// Outlives the runs.
struct RunServices {
    net::EventLoop& loop;
    net::HttpClient* http;  // for the next call; another one after a change of settings
    DatabaseJobs& jobs;
    core::ToolCatalog& catalog;
    const GrantKey& grant_key;
    Tracer& tracer;
    ResolverPatience& resolver_patience;
    TablePatience& table_patience;
    ServiceGates& gates;
    const Stops& stops;         // as of the last check
    std::string authorization;  // complete header line with the service key, or empty; a secret
    std::string service_key;    // likewise, in the form for the research services
};

}  // namespace mana_ai
