// Time limits of registered resolvers. They run on the event loop and block all other missions in
// the meantime (docs/operations.md, "Resolvers of your own").
#pragma once

#include <map>
#include <set>
#include <string>

#include "mana_ai/core/time/instant.hpp"

namespace mana_ai {

// A process's experience with its resolvers. A module that times out repeatedly is paused, so that
// one slow function does not slow down all missions.
class ResolverPatience {
 public:
    bool is_paused(const std::string& module, core::Instant now) const;
    void note(const std::string& module, bool timed_out, core::Instant now);

 private:
    struct Record {
        int timeouts = 0;  // in a row
        core::Instant paused_until = 0;
    };
    std::map<std::string, Record> records_;  // of modules whose last call timed out
};

// The same for one run.
class ResolverBudget {
 public:
    // The time that the resolvers of one run may take together, without the last call.
    static constexpr core::Instant kLimit = 2 * core::kMicrosPerSecond;

    explicit ResolverBudget(ResolverPatience& patience) : patience_(patience) {}

    // Why the module must not be called now; null: it may be.
    const char* refusal(const std::string& module, core::Instant now) const;
    void spend(const std::string& module, core::Instant took, bool timed_out, core::Instant now);

 private:
    ResolverPatience& patience_;
    core::Instant spent_ = 0;
    std::set<std::string> slow_;  // timed out in this run
};

}  // namespace mana_ai
