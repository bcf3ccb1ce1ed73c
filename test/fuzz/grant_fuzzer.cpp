// Any text as a grant, as the derivation of a valid one, as a wrapped key and as a private key.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "../client/client_side.hpp"
#include "../unit/crypto/grant_vectors.hpp"
#include "mana_ai/core/text/json.hpp"
#include "mana_ai/crypto/base64.hpp"
#include "mana_ai/crypto/grant.hpp"

namespace {

using namespace mana_ai::crypto;
namespace core = mana_ai::core;

constexpr core::Instant kNow = 1'776'300'000 * core::kMicrosPerSecond;  // 2026-04-16

void require(bool condition) {
    if (!condition) {
        std::abort();
    }
}

// What parsed must be usable, and must be what opening is based on.
void check(const core::Json& json, std::string_view mission_id) {
    const auto parsed = Grant::parse(json, mission_id, kNow);
    if (const auto* failure = std::get_if<GrantFailure>(&parsed)) {
        require(*failure == GrantFailure::kExpired || *failure == GrantFailure::kMalformed);
        const auto opened = open_grant(json, &test_key(), mission_id, kNow);
        require(std::get<GrantFailure>(opened) == *failure);
        return;
    }
    const auto& grant = std::get<Grant>(parsed);
    require(kNow < grant.expires_at() && !grant.wrapped_key().empty());
    for (const std::string& record : grant.record_ids()) {
        const std::size_t colon = record.find(':');
        if (colon != std::string::npos && colon != 0 && colon + 1 != record.size()) {
            require(grant.allows(std::string_view(record).substr(0, colon),
                                 std::string_view(record).substr(colon + 1)));
        }
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    if (size == 0) {
        return 0;
    }
    const std::string_view text(reinterpret_cast<const char*>(data) + 1, size - 1);
    const core::Json& vector = grant_vectors().at("cases")[0];
    switch (data[0] % 4) {
        case 0: {
            const auto opened = open_grant_text(text, &test_key(), "mission-0", kNow);
            require(std::holds_alternative<GrantFailure>(opened));
            if (const auto json = core::parse_json(text)) {
                check(*json, "mission-0");
            }
            break;
        }
        case 1: {
            core::Json grant = grant_of(vector);
            if (auto derivation = core::parse_json(text)) {
                const std::string mission(core::string_or(*derivation, "missionId", ""));
                grant["derivation"] = std::move(*derivation);
                check(grant, mission);
            }
            break;
        }
        case 2: {
            core::Json grant = grant_of(vector);
            std::vector<std::uint8_t> wrapped(
                base64_decoded_size(grant.at("wrappedKey").get<std::string>()).value());
            require(decode_base64(grant.at("wrappedKey").get<std::string>(), wrapped));
            const std::vector<std::uint8_t> original = wrapped;
            for (std::size_t i = 0; i < text.size() && i < wrapped.size(); ++i) {
                wrapped[i] ^= static_cast<std::uint8_t>(text[i]);
            }
            grant["wrappedKey"] = client::encode_base64(wrapped);
            const auto opened = open_grant(grant, &test_key(), "mission-0", kNow);
            require(std::holds_alternative<OpenedGrant>(opened) == (wrapped == original));
            break;
        }
        default: {
            (void)PrivateKey::from_pem(text);
            (void)PrivateKey::from_pem("-----BEGIN PRIVATE KEY-----" +
                                       client::encode_base64({data + 1, size - 1}) +
                                       "-----END PRIVATE KEY-----");
            break;
        }
    }
    return 0;
}
