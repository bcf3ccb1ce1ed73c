// How long registered resolvers may hold up everything else. They run on the event loop: while one
// does, no other mission gets its answers (docs/operations.md, "Resolvers of your own").
#pragma once

#include <map>
#include <set>
#include <string>

#include "mana_ai/core/time/instant.hpp"

namespace mana_ai {

// What a process knows of its resolvers. A module that times out again and again is left alone for
// a while, so that one slow function does not slow down all missions for ever.
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
    // Longest time that the resolvers of one run may take together, less the last call.
    static constexpr core::Instant kLimit = 2 * core::kMicrosPerSecond;

    explicit ResolverBudget(ResolverPatience& patience) : patience_(patience) {}

    // Why the module is not to be asked now; null: it may be.
    const char* refusal(const std::string& module, core::Instant now) const;
    void spend(const std::string& module, core::Instant took, bool timed_out, core::Instant now);

 private:
    ResolverPatience& patience_;
    core::Instant spent_ = 0;
    std::set<std::string> slow_;  // timed out in this run
};

}  // namespace mana_ai
