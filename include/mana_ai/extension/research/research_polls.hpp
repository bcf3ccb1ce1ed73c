// Polls mana-research for the answers that missions wait for, outside of runs and without a lease:
// a waiting mission costs a tick nothing (docs/architecture.md, "Deep research").
#pragma once

#include <map>
#include <optional>
#include <string>
#include <utility>

#include "mana_ai/core/time/instant.hpp"
#include "mana_ai/extension/lease/research_jobs.hpp"
#include "mana_ai/extension/lease/run_services.hpp"
#include "mana_ai/net/event_loop.hpp"

namespace mana_ai {

class ResearchPolls {
 public:
    // The services outlive the polls.
    explicit ResearchPolls(RunServices& services) : services_(services) {}

    // Finds out when the next poll is due, in the current transaction.
    void look() { next_at_ = next_research_poll_at(); }

    // A job has just begun to wait.
    void expect(core::Instant now);

    // Whether start_due() has something to do.
    bool has_due(core::Instant due_until) const;

    // Takes jobs that are due by `due_until`, in separate transactions, and starts their polls.
    // Needs the HTTP client.
    void start_due(core::Instant due_until);

    int under_way() const { return static_cast<int>(under_way_.size()); }

    // When start_due() is next to be called; nullopt = nothing waits, or the maximum is in
    // progress.
    std::optional<core::Instant> next_at() const;

    // Whether a poll has made a mission due since the last call.
    bool take_freed() { return std::exchange(freed_, false); }

    // Ends the polls in progress; their jobs are polled again at their next time.
    void cancel();
    // Only those of users whom an operator has stopped.
    void cancel_stopped();

 private:
    void start(DueResearch due);

    RunServices& services_;
    // By user_id and mission_id.
    std::map<std::pair<std::string, std::string>, net::EventLoop::TaskId> under_way_;
    bool freed_ = false;
    std::optional<core::Instant> next_at_;
};

}  // namespace mana_ai
