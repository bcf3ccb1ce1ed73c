#include "mana_ai/core/planner/fair_turns.hpp"

#include <algorithm>
#include <queue>
#include <string_view>
#include <tuple>
#include <unordered_set>
#include <utility>

namespace mana_ai::core {

void FairTurns::started(const std::string& user_id) {
    users_[user_id].running++;
}

void FairTurns::ended(const std::string& user_id) {
    const auto found = users_.find(user_id);
    if (found != users_.end() && found->second.running > 0) {
        found->second.running--;
    }
}

int FairTurns::running(const std::string& user_id) const {
    const auto found = users_.find(user_id);
    return found == users_.end() ? 0 : found->second.running;
}

std::vector<DueMission> FairTurns::take_rest(std::size_t limit, Instant now) {
    std::vector<DueMission> rest = std::exchange(rest_, {});
    if (now < looked_at_ || now - looked_at_ >= kRestIsGood) {
        return {};
    }
    std::unordered_set<std::string_view> users;
    for (const DueMission& mission : rest) {
        users.insert(mission.user_id);
    }
    return users.size() >= limit ? rest : std::vector<DueMission>();
}

void FairTurns::avoid(const DueMission& mission, Instant now) {
    if (avoided_.size() >= kMaxAvoided) {
        avoided_.clear();
    }
    avoided_[{mission.user_id, mission.mission_id}] = now;
}

void FairTurns::leave_out_avoided(std::vector<DueMission>& candidates, Instant now) {
    std::erase_if(avoided_, [now](const auto& entry) {
        return now < entry.second || now - entry.second >= kAvoidedFor;
    });
    if (avoided_.empty()) {
        return;
    }
    std::erase_if(candidates, [this](const DueMission& mission) {
        return avoided_.contains({mission.user_id, mission.mission_id});
    });
}

void FairTurns::forget_turns() {
    std::erase_if(users_, [](const auto& user) { return user.second.running == 0; });
    for (auto& [user_id, user] : users_) {
        user.last_turn = 0;
    }
}

void FairTurns::forget(const std::string& user_id) {
    const auto found = users_.find(user_id);
    if (found != users_.end() && found->second.running == 0) {
        users_.erase(found);
    }
    std::erase_if(rest_, [&](const DueMission& mission) { return mission.user_id == user_id; });
    std::erase_if(avoided_, [&](const auto& entry) { return entry.first.first == user_id; });
    if (cursor == user_id) {
        cursor.clear();
    }
}

std::vector<DueMission> FairTurns::choose(std::vector<DueMission> candidates, std::size_t limit,
                                          int most_per_user, bool& held_back) {
    held_back = false;
    std::sort(candidates.begin(), candidates.end(), [](const DueMission& a, const DueMission& b) {
        return std::tie(a.user_id, a.wake_at, a.mission_id) <
               std::tie(b.user_id, b.wake_at, b.mission_id);
    });
    candidates.erase(std::unique(candidates.begin(), candidates.end(),
                                 [](const DueMission& a, const DueMission& b) {
                                     return a.user_id == b.user_id && a.mission_id == b.mission_id;
                                 }),
                     candidates.end());
    struct Next {
        int running;
        std::uint64_t last_turn;
        Instant wake_at;
        std::size_t at;
        bool operator<(const Next& other) const {
            return std::tie(running, last_turn, wake_at, at) >
                   std::tie(other.running, other.last_turn, other.wake_at, other.at);
        }
    };
    std::priority_queue<Next> next;
    for (std::size_t i = 0; i < candidates.size(); ++i) {
        if (i == 0 || candidates[i].user_id != candidates[i - 1].user_id) {
            const auto found = users_.find(candidates[i].user_id);
            const User user = found == users_.end() ? User{} : found->second;
            next.push({user.running, user.last_turn, candidates[i].wake_at, i});
        }
    }
    if (users_.size() > kMaxUsers) {
        forget_turns();
    }
    std::vector<DueMission> chosen;
    std::vector<bool> is_chosen(candidates.size());
    while (chosen.size() < limit && !next.empty()) {
        const Next turn = next.top();
        next.pop();
        // The queue is ordered by running missions, so later users have reached the limit too.
        if (most_per_user > 0 && turn.running >= most_per_user) {
            held_back = true;
            break;
        }
        DueMission& mission = candidates[turn.at];
        users_[mission.user_id].last_turn = ++turn_;
        const std::size_t following = turn.at + 1;
        if (following < candidates.size() && candidates[following].user_id == mission.user_id) {
            next.push({turn.running + 1, turn_, candidates[following].wake_at, following});
        }
        is_chosen[turn.at] = true;
        chosen.push_back(mission);
    }
    rest_.clear();
    for (std::size_t i = 0; i < candidates.size(); ++i) {
        if (!is_chosen[i]) {
            rest_.push_back(std::move(candidates[i]));
        }
    }
    return chosen;
}

}  // namespace mana_ai::core
