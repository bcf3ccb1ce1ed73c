#include "mana_ai/crypto/grant.hpp"

#include <algorithm>
#include <utility>

#include "mana_ai/crypto/base64.hpp"

namespace mana_ai::crypto {

namespace {

// The strings of an array in member `key`; nullopt if it is not an array of strings.
std::optional<std::vector<std::string>> strings_of(const core::Json& object, const char* key) {
    const auto member = object.find(key);
    if (member == object.end() || !member->is_array()) {
        return std::nullopt;
    }
    std::vector<std::string> strings;
    strings.reserve(member->size());
    for (const core::Json& element : *member) {
        if (!element.is_string()) {
            return std::nullopt;
        }
        strings.push_back(element.get_ref<const std::string&>());
    }
    return strings;
}

// Bytes of a base64 string; nullopt also for the empty one.
std::optional<std::vector<std::uint8_t>> bytes_of(std::string_view base64) {
    const std::optional<std::size_t> size = base64_decoded_size(base64);
    if (!size || *size == 0) {
        return std::nullopt;
    }
    std::vector<std::uint8_t> bytes(*size);
    if (!decode_base64(base64, bytes)) {
        return std::nullopt;
    }
    return bytes;
}

}  // namespace

std::string_view to_string(GrantFailure failure) noexcept {
    switch (failure) {
        case GrantFailure::kNotConfigured:
            return "not-configured";
        case GrantFailure::kExpired:
            return "expired";
        case GrantFailure::kMalformed:
            return "malformed";
        case GrantFailure::kWrapRejected:
            return "wrap-rejected";
    }
    return "malformed";
}

std::variant<Grant, GrantFailure> Grant::parse(const core::Json& grant, std::string_view mission_id,
                                               core::Instant now) {
    if (!grant.is_object()) {
        return GrantFailure::kMalformed;
    }
    const auto expires_at = core::parse_instant(core::string_or(grant, "expiresAt", ""));
    if (!expires_at || now >= *expires_at) {
        return GrantFailure::kExpired;
    }
    const auto derivation = grant.find("derivation");
    if (derivation == grant.end() || !derivation->is_object() ||
        core::string_or(*derivation, "version", "") != "v1") {
        return GrantFailure::kMalformed;
    }
    const auto granted_mission = derivation->find("missionId");
    if (granted_mission == derivation->end() || !granted_mission->is_string() ||
        granted_mission->get_ref<const std::string&>() != mission_id) {
        return GrantFailure::kMalformed;
    }
    auto tables = strings_of(*derivation, "tables");
    auto record_ids = strings_of(*derivation, "recordIds");
    auto wrapped_key = bytes_of(core::string_or(grant, "wrappedKey", ""));
    if (!tables || !record_ids || !wrapped_key) {
        return GrantFailure::kMalformed;
    }
    std::sort(record_ids->begin(), record_ids->end());
    Grant parsed;
    parsed.wrapped_key_ = std::move(*wrapped_key);
    parsed.tables_ = std::move(*tables);
    parsed.record_ids_ = std::move(*record_ids);
    parsed.expires_at_ = *expires_at;
    return parsed;
}

bool Grant::allows(std::string_view table, std::string_view id) const {
    // With a colon in the table's name two different pairs would have the same text.
    if (table.empty() || id.empty() || table.find(':') != std::string_view::npos) {
        return false;
    }
    std::string record;
    record.reserve(table.size() + 1 + id.size());
    record.append(table).append(1, ':').append(id);
    return std::binary_search(record_ids_.begin(), record_ids_.end(), record);
}

std::variant<OpenedGrant, GrantFailure> open_grant(const core::Json& grant,
                                                   const PrivateKey* private_key,
                                                   std::string_view mission_id, core::Instant now) {
    if (private_key == nullptr) {
        return GrantFailure::kNotConfigured;
    }
    auto parsed = Grant::parse(grant, mission_id, now);
    if (const auto* failure = std::get_if<GrantFailure>(&parsed)) {
        return *failure;
    }
    auto& opened = std::get<Grant>(parsed);
    std::optional<SecretBytes> unwrapped = private_key->unwrap(opened.wrapped_key());
    if (!unwrapped) {
        return GrantFailure::kWrapRejected;
    }
    MissionDataKey key(std::move(*unwrapped));
    if (key.empty()) {
        return GrantFailure::kMalformed;
    }
    return OpenedGrant{.grant = std::move(opened), .key = std::move(key)};
}

}  // namespace mana_ai::crypto
