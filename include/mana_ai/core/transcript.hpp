// The messages of one planner run, kept serialized so that no round writes the history anew.
#pragma once

#include <cstddef>
#include <string>
#include <utility>
#include <vector>

namespace mana_ai::core {

enum class Role { System, User, Assistant, Tool };

class Transcript {
 public:
    // `message` is a serialized JSON object of that role.
    void add(Role role, std::string message) {
        roles_.push_back(role);
        messages_.push_back(std::move(message));
    }

    std::size_t size() const noexcept { return messages_.size(); }
    Role role(std::size_t index) const { return roles_.at(index); }
    const std::vector<std::string>& messages() const noexcept { return messages_; }

 private:
    std::vector<Role> roles_;
    std::vector<std::string> messages_;  // as ChatRequest takes them
};

}  // namespace mana_ai::core
