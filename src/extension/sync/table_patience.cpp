#include "mana_ai/extension/sync/table_patience.hpp"

#include <algorithm>

namespace mana_ai {

namespace {

// The time of an ordinary insert is not recorded.
constexpr int64_t kWorthNoting = 20'000;
constexpr size_t kManyUsers = 1024;

}  // namespace

int64_t TablePatience::Use::left(int64_t now) const {
    return std::max<int64_t>(used - (now - at) / kPart, 0);
}

void TablePatience::note(const std::string& user_id, int64_t took_us, int64_t now) {
    if (took_us < kWorthNoting)
        return;
    if (uses_.size() >= kManyUsers)
        forget_old(now);
    Use& use = uses_[user_id];
    use.used = use.left(now) + took_us;
    use.at = now;
}

void TablePatience::forget_old(int64_t now) {
    std::erase_if(uses_, [now](const auto& entry) { return entry.second.left(now) == 0; });
}

int64_t TablePatience::wait_us(const std::string& user_id, int64_t now) const {
    const auto found = uses_.find(user_id);
    if (found == uses_.end())
        return 0;
    return std::max<int64_t>(found->second.left(now) - kAllowance, 0) * kPart;
}

}  // namespace mana_ai
