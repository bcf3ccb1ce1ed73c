// The messages of one planner run, kept serialized so that no round serializes the history again.
#pragma once

#include <cstddef>
#include <string>
#include <utility>
#include <vector>

#include "mana_ai/core/text/wipe.hpp"

namespace mana_ai::core {

enum class Role { System, User, Assistant, Tool };

// Prompts may quote decrypted text, so messages are wiped when they are removed.
class Transcript {
 public:
    Transcript() = default;
    Transcript(Transcript&&) = default;
    Transcript& operator=(Transcript&&) = delete;
    Transcript(const Transcript&) = delete;
    Transcript& operator=(const Transcript&) = delete;
    ~Transcript() {
        for (std::string& message : messages_) {
            wipe(message);
        }
    }

    // `message` is a serialized JSON object of that role.
    void add(Role role, std::string message) {
        roles_.push_back(role);
        messages_.push_back(std::move(message));
    }

    // Puts one message in the place of the messages [begin, end). A range that is empty or reaches
    // beyond the end changes nothing.
    void replace(std::size_t begin, std::size_t end, Role role, std::string message) {
        if (begin >= end || end > messages_.size()) {
            return;
        }
        const auto first = static_cast<std::ptrdiff_t>(begin);
        const auto last = static_cast<std::ptrdiff_t>(end);
        for (std::size_t i = begin; i < end; ++i) {
            wipe(messages_[i]);
        }
        roles_[begin] = role;
        messages_[begin] = std::move(message);
        roles_.erase(roles_.begin() + first + 1, roles_.begin() + last);
        messages_.erase(messages_.begin() + first + 1, messages_.begin() + last);
    }

    // Puts a message before the one at `index`, which is at most size().
    void insert(std::size_t index, Role role, std::string message) {
        const auto place = static_cast<std::ptrdiff_t>(index);
        roles_.insert(roles_.begin() + place, role);
        messages_.insert(messages_.begin() + place, std::move(message));
    }

    std::size_t size() const noexcept { return messages_.size(); }
    Role role(std::size_t index) const { return roles_.at(index); }
    const std::vector<std::string>& messages() const noexcept { return messages_; }

 private:
    std::vector<Role> roles_;
    std::vector<std::string> messages_;  // as ChatRequest takes them
};

}  // namespace mana_ai::core
