#include "mana_ai/extension/input/decryption.hpp"

#include <utility>

#include "mana_ai/crypto/encrypted_value.hpp"
#include "mana_ai/crypto/json_text.hpp"
#include "mana_ai/pg/settings.hpp"

namespace mana_ai {

namespace {

constexpr char kNoGrant[] = "no-grant";

}  // namespace

bool grant_may_open(const core::Mission& mission, std::string_view mission_id, core::Instant now) {
    if (mission.grant.is_null() || pg::settings::grant_private_key_file().empty())
        return false;
    return std::holds_alternative<crypto::Grant>(
        crypto::Grant::parse(mission.grant, mission_id, now));
}

Decryption::Decryption(const core::Mission& mission, std::string_view mission_id,
                       std::shared_ptr<const crypto::PrivateKey> private_key, core::Instant now)
    : mission_(mission), mission_id_(mission_id), private_key_(std::move(private_key)), now_(now) {
    if (mission.grant.is_null()) {
        failure_ = kNoGrant;
        return;
    }
    if (private_key_ == nullptr) {
        failure_ = crypto::to_string(crypto::GrantFailure::kNotConfigured);
        return;
    }
    auto parsed = crypto::Grant::parse(mission.grant, mission_id_, now);
    if (const auto* failure = std::get_if<crypto::GrantFailure>(&parsed))
        failure_ = crypto::to_string(*failure);
    else
        parsed_ = std::move(std::get<crypto::Grant>(parsed));
}

const crypto::Grant* Decryption::grant() const noexcept {
    return failure_.empty() && parsed_ ? &*parsed_ : nullptr;
}

void Decryption::unwrap() {
    auto opened = crypto::open_grant(mission_.grant, private_key_.get(), mission_id_, now_);
    if (const auto* failure = std::get_if<crypto::GrantFailure>(&opened))
        failure_ = crypto::to_string(*failure);
    else
        opened_ = std::move(std::get<crypto::OpenedGrant>(opened));
}

std::string_view Decryption::open(std::string& text) {
    if (failure_.empty() && !opened_)
        unwrap();
    if (!failure_.empty())
        return failure_;
    auto value = crypto::open_value(text, opened_->key);
    if (const auto* failure = std::get_if<crypto::ValueFailure>(&value))
        return crypto::to_string(*failure);
    const auto& json = std::get<crypto::SecretBytes>(value);
    // One allocation of the right size: a growing string would leave copies in memory.
    if (const auto decoded = crypto::decode_json_string(json.view()))
        text = std::string(decoded->view());
    else
        text = std::string(json.view());
    opened_any_ = true;
    return {};
}

void Decryption::wipe() noexcept {
    opened_.reset();
    private_key_.reset();
    if (failure_.empty())
        failure_ = kNoGrant;
}

}  // namespace mana_ai
