#include "mana_ai/extension/input/resolver_patience.hpp"

namespace mana_ai {

namespace {

constexpr int kTimeoutsInARow = 3;
constexpr core::Instant kPause = core::kMicrosPerMinute;

}  // namespace

bool ResolverPatience::is_paused(const std::string& module, core::Instant now) const {
    const auto found = records_.find(module);
    return found != records_.end() && found->second.paused_until > now;
}

void ResolverPatience::note(const std::string& module, bool timed_out, core::Instant now) {
    if (!timed_out) {
        records_.erase(module);
        return;
    }
    Record& record = records_[module];
    if (++record.timeouts >= kTimeoutsInARow)
        record.paused_until = now + kPause;
}

const char* ResolverBudget::refusal(const std::string& module, core::Instant now) const {
    if (slow_.contains(module))
        return "resolver-failed";
    if (spent_ >= kLimit)
        return "resolver-budget";
    return patience_.is_paused(module, now) ? "resolver-paused" : nullptr;
}

void ResolverBudget::spend(const std::string& module, core::Instant took, bool timed_out,
                           core::Instant now) {
    spent_ += took;
    if (timed_out)
        slow_.insert(module);
    patience_.note(module, timed_out, now);
}

}  // namespace mana_ai
