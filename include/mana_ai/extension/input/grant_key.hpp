// The private key of this server that mission keys are wrapped for
// (docs/contract/inputs.md, Mission key grant; docs/security.md).
#pragma once

#include <memory>
#include <string>

#include "mana_ai/crypto/private_key.hpp"

namespace mana_ai {

// Read once per process and again at every reload.
class GrantKey {
 public:
    // Reads the file that mana_ai.grant_private_key_file names. An unusable file disables grants
    // and is logged once, until the problem changes. From the first key on, the process leaves no
    // core file and nobody may attach to it.
    void load();

    // Null: no file is configured, or it cannot be used. Shared, since a reload may replace the key
    // while a run still needs it.
    std::shared_ptr<const crypto::PrivateKey> get() const noexcept { return key_; }

    // "not configured", "loaded", or why the file cannot be used; for status().
    const std::string& state() const noexcept { return state_; }

    // Identifies the key; empty = none. Not secret.
    std::string digest() const { return key_ ? key_->public_digest() : std::string(); }

 private:
    std::shared_ptr<const crypto::PrivateKey> key_;
    std::string state_ = "not configured";
};

}  // namespace mana_ai
