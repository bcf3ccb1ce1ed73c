// The gates of one process: one per service that it calls, and per model if the service has limits
// per model (docs/operations.md, "When the provider says no").
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_set>
#include <vector>

#include "mana_ai/extension/lease/stops.hpp"
#include "mana_ai/extension/watch/trace_exporter.hpp"
#include "mana_ai/net/call_gate.hpp"
#include "mana_ai/net/event_loop.hpp"
#include "mana_ai/net/http_client.hpp"

namespace mana_ai {

class ServiceGates {
 public:
    enum class Kind { Model, WebResearch, DeepResearch };

    // Both outlive it.
    ServiceGates(net::EventLoop& loop, const Stops& stops) : loop_(loop), stops_(stops) {}
    ServiceGates(const ServiceGates&) = delete;
    ServiceGates& operator=(const ServiceGates&) = delete;

    // Limits may have changed; `new_key` makes the gates forget what they learned with another one.
    void load_settings(bool new_key);

    // As configured now; the address is stable while it is configured or has a Turn.
    net::CallGate& of_model(const std::string& model);
    net::CallGate& of_research(Kind kind);

    // The gate of this model stays, whether it is configured or not.
    void keep(const std::string& model) { kept_.insert(model); }

    // A run has been started whose first call is still to come; it counts as waiting. `arrived`
    // once it calls, or ends without a call.
    void expect(const std::string& run_id) { coming_.insert(run_id); }
    void arrived(const std::string& run_id) { coming_.erase(run_id); }

    // The first of the planner's models that is available, else the first.
    net::CallGate& of_planner();

    // How long a mission whose call has just been refused should not be claimed again.
    int64_t pause_of_planner();

    // For the claim: how many missions could make a call now, and when that may next change (on the
    // loop's clock).
    int claimable();
    std::optional<int64_t> next_claim_at();
    // Whether the service is unavailable, so that a manual tick should not wait for it.
    bool is_away();
    // What keeps missions from being claimed, while is_away().
    std::string problem();

    // Logs changes of state, and publishes them for other processes with `shared`; also those of
    // the collector, whose pauses its exporter manages itself.
    void report(bool shared, const std::optional<TraceExporter::View>& collector);

 private:
    struct Entry {
        Entry(net::EventLoop& loop, const core::GateLimits& limits) : gate(loop, limits) {}
        net::CallGate gate;
        Kind kind = Kind::Model;
        std::string name;  // the model, or empty
        core::GateState logged = core::GateState::Open;
        uint64_t counted_refused = 0;
        uint64_t counted_failed = 0;
    };

    Entry& entry(Kind kind, const std::string& url, const std::string& name);
    void drop_old();

    net::EventLoop& loop_;
    const Stops& stops_;
    std::map<std::string, std::unique_ptr<Entry>> entries_;  // by kind, URL and model
    std::unordered_set<std::string> coming_;
    std::unordered_set<std::string> kept_;
    int64_t reported_at_ = 0;
    bool may_have_old_ = false;  // gates of services that are no longer configured
};

// What a reply reports to the gate of its service.
core::CallReport report_of(const net::HttpResponse& response);

}  // namespace mana_ai
