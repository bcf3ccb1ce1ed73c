// A mission's key grant: the user's permission to open some records for one mission.
// docs/contract/inputs.md, Mission key grant.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "mana_ai/core/text/json.hpp"
#include "mana_ai/core/time/instant.hpp"
#include "mana_ai/crypto/private_key.hpp"
#include "mana_ai/crypto/secret_bytes.hpp"

namespace mana_ai::crypto {

// The AES-256 key of everything that a grant opens.
using MissionDataKey = SecretArray<32>;

// Why a grant gives no key. The first fault of several counts.
enum class GrantFailure {
    kNotConfigured,  // this server has no private key
    kExpired,        // expiresAt has come, or cannot be read
    kMalformed,      // not as the page says, for another mission, or the key has not 32 bytes
    kWrapRejected,   // the key was not wrapped for this server, or was changed
};

// The names used in metrics and audit: "not-configured", "expired", "malformed", "wrap-rejected".
std::string_view to_string(GrantFailure failure) noexcept;

// What a grant says, without its key. Nothing in it is secret.
class Grant {
 public:
    // A grant for `mission_id` that has not expired at `now`, without looking at its key. Any value
    // or bytes may be given. Throws std::bad_alloc at most.
    static std::variant<Grant, GrantFailure> parse(const core::Json& grant,
                                                   std::string_view mission_id, core::Instant now);

    // Whether the user granted this record: the pair must be listed, whatever `tables` says.
    bool allows(std::string_view table, std::string_view id) const;

    core::Instant expires_at() const noexcept { return expires_at_; }
    const std::vector<std::string>& tables() const noexcept { return tables_; }
    const std::vector<std::string>& record_ids() const noexcept { return record_ids_; }  // sorted
    const std::vector<std::uint8_t>& wrapped_key() const noexcept { return wrapped_key_; }

 private:
    Grant() = default;

    std::vector<std::uint8_t> wrapped_key_;
    std::vector<std::string> tables_;
    std::vector<std::string> record_ids_;  // "table:id"
    core::Instant expires_at_ = 0;
};

// A grant and its key. Move-only; the key is wiped with it.
struct OpenedGrant {
    Grant grant;
    MissionDataKey key;
};

// Parses and unwraps. `private_key` may be null: not configured. Costs about a millisecond of CPU
// once the grant is well-formed. Only the result may be disclosed: no logs, no details.
// std::bad_alloc and CryptoUnavailable, neither because of the grant.
std::variant<OpenedGrant, GrantFailure> open_grant(const core::Json& grant,
                                                   const PrivateKey* private_key,
                                                   std::string_view mission_id, core::Instant now);

}  // namespace mana_ai::crypto
