// The answers of the process that asks other models (what_if_process.hpp).
#pragma once

#include <cstdint>
#include <exception>
#include <string>
#include <string_view>

#include "mana_ai/core/text/json.hpp"
#include "mana_ai/extension/input/grant_key.hpp"
#include "mana_ai/extension/input/resolver_patience.hpp"
#include "mana_ai/extension/lease/run_services.hpp"
#include "mana_ai/extension/process/http_clients.hpp"
#include "mana_ai/extension/run/what_if.hpp"
#include "mana_ai/pg/wait.hpp"

namespace mana_ai {

class WhatIfServer {
 public:
    WhatIfServer();
    ~WhatIfServer();
    WhatIfServer(const WhatIfServer&) = delete;
    WhatIfServer& operator=(const WhatIfServer&) = delete;

    // {"ask": "facts" | "latest" | "what_if" | "begin" | ..., ...}; see what_if_server.cpp. Throws
    // PgError. After an interrupt what was paid for is recorded, or in the server's log.
    core::Json answer(const core::Json& question);

 private:
    core::Json what_if(const core::Json& question);
    core::Json evaluation(std::string_view what, const core::Json& question);
    void prepare(const std::string& model);
    bool converse(const WhatIfQuestion& question, core::PlannerLoop& planner, WhatIfAnswer& answer);
    void run_ready();
    bool is_stopped_meanwhile(const WhatIfQuestion& question, const WhatIfAnswer& answer);
    void end_early(net::EventLoop::TaskId task);

    uint32_t number_;
    net::EventLoop loop_;
    HttpClients http_;
    DatabaseJobs jobs_;
    Tracer tracer_;
    core::ToolCatalog catalog_;  // not used: each question has its own
    GrantKey grant_key_;         // nor these
    ResolverPatience resolver_patience_;
    TablePatience table_patience_;
    Stops stops_;
    ServiceGates gates_;
    RunServices services_;
    pg::WaitSet wait_set_;
    core::Instant stops_seen_at_ = 0;  // on the monotonic clock
};

}  // namespace mana_ai
