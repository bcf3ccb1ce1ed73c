// test/data/grants.json: a test key pair and, per case, a grant and values that it opens.
#pragma once

#include <fstream>
#include <iterator>
#include <stdexcept>
#include <string>
#include <string_view>
#include <variant>

#include "../../client/client_side.hpp"
#include "mana_ai/core/text/json.hpp"
#include "mana_ai/crypto/grant.hpp"
#include "mana_ai/crypto/private_key.hpp"

namespace mana_ai::crypto {

inline const core::Json& grant_vectors() {
    static const core::Json vectors = [] {
        std::ifstream file(MANA_AI_TEST_DATA "/grants.json");
        const std::string text(std::istreambuf_iterator<char>(file), {});
        auto parsed = core::parse_json(text);
        if (!parsed) {
            throw std::runtime_error("grants.json cannot be read");
        }
        return *parsed;
    }();
    return vectors;
}

inline std::string test_private_pem() {
    return grant_vectors().at("test_private_key_pem");
}

inline std::string test_public_pem() {
    return grant_vectors().at("test_public_key_pem");
}

inline const PrivateKey& test_key() {
    static const PrivateKey key = std::get<PrivateKey>(PrivateKey::from_pem(test_private_pem()));
    return key;
}

inline MissionDataKey data_key_of(const client::Bytes& bytes) {
    return MissionDataKey(SecretBytes::copy_of(bytes));
}

// A case's grant, valid from 2026-04-15 to 2026-04-22.
inline core::Json grant_of(const core::Json& vector) {
    return {{"wrappedKey", vector.at("wrapped_key_base64")},
            {"derivation", vector.at("derivation")},
            {"issuedAt", "2026-04-15T08:00:00.000Z"},
            {"expiresAt", "2026-04-22T08:00:00.000Z"}};
}

// open_grant() of any text.
inline std::variant<OpenedGrant, GrantFailure> open_grant_text(std::string_view json,
                                                               const PrivateKey* private_key,
                                                               std::string_view mission_id,
                                                               core::Instant now) {
    if (private_key == nullptr) {
        return GrantFailure::kNotConfigured;
    }
    const auto grant = core::parse_json(json);
    return grant ? open_grant(*grant, private_key, mission_id, now) : GrantFailure::kMalformed;
}

}  // namespace mana_ai::crypto
