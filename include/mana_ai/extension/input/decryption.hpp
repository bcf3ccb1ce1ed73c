// What one run may decrypt (docs/contract/inputs.md, Mission key grant).
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <variant>

#include "mana_ai/core/record/records.hpp"
#include "mana_ai/crypto/grant.hpp"

namespace mana_ai {

// Whether the mission's grant is worth an attempt: a key file is configured, and the grant is
// well-formed, for this mission and not expired. Only unwrapping shows whether it opens anything.
bool grant_may_open(const core::Mission& mission, std::string_view mission_id, core::Instant now);

// The grant of one mission and, from the first value that is opened on, its key, which is wiped
// with this object.
class Decryption {
 public:
    // `private_key` may be null; the mission outlives this object.
    Decryption(const core::Mission& mission, std::string_view mission_id,
               std::shared_ptr<const crypto::PrivateKey> private_key, core::Instant now);

    // The grant as far as it can be read without its key; null: failure() says why.
    const crypto::Grant* grant() const noexcept;

    // Why the grant gives no key: "no-grant" or a reason of the contract; empty when nothing is
    // known against it. Turns up at the latest with the first value that is opened.
    std::string_view failure() const noexcept { return failure_; }

    // Replaces an encrypted value by its plaintext: the content of a JSON string, or the JSON text
    // of another kind of value. Empty result: done; the caller must then wipe the text. Otherwise
    // the text is unchanged and the result says why: failure() of the grant, or a reason of the
    // audit.
    std::string_view open(std::string& text);

    // Whether any value was opened.
    bool opened_any() const noexcept { return opened_any_; }

    // Forgets the key; later values are not opened.
    void wipe() noexcept;

 private:
    void unwrap();

    const core::Mission& mission_;
    std::string mission_id_;
    std::shared_ptr<const crypto::PrivateKey> private_key_;
    core::Instant now_;
    std::optional<crypto::Grant> parsed_;
    std::optional<crypto::OpenedGrant> opened_;
    std::string_view failure_;
    bool opened_any_ = false;
};

}  // namespace mana_ai
