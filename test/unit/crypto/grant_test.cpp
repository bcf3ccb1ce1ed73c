#include "mana_ai/crypto/grant.hpp"

#include <gtest/gtest.h>
#include <openssl/err.h>

#include <string>
#include <vector>

#include "../../client/client_side.hpp"
#include "grant_vectors.hpp"
#include "mana_ai/crypto/encrypted_value.hpp"

namespace mana_ai::crypto {
namespace {

using core::Json;

const core::Instant kNow = core::parse_instant("2026-04-16T00:00:00Z").value();
const client::Bytes kDataKey(32, 0x17);

// "ok" or the reason's name.
std::string outcome(const std::variant<OpenedGrant, GrantFailure>& result) {
    EXPECT_EQ(ERR_peek_error(), 0u) << "left in OpenSSL's error queue";
    const auto* failure = std::get_if<GrantFailure>(&result);
    return failure == nullptr ? "ok" : std::string(to_string(*failure));
}

std::string outcome(const Json& grant, std::string_view mission_id = "mission-1") {
    return outcome(open_grant(grant, &test_key(), mission_id, kNow));
}

Json valid_grant() {
    static const client::Bytes wrapped = client::wrap(kDataKey, test_public_pem());
    return client::make_grant(wrapped, "mission-1", {"tasks", "notes"},
                              {"tasks:t1", "notes:n1", "notes:with:colon"});
}

TEST(Grant, VectorsGiveTheirKeyAndOpenTheirValues) {
    for (const Json& vector : grant_vectors().at("cases")) {
        const Json& derivation = vector.at("derivation");
        const std::string mission_id = derivation.at("missionId");
        const auto expected =
            client::from_hex(vector.at("mission_data_key_hex").get<std::string>());

        const std::string info =
            client::canonical_info(derivation.at("tables"), derivation.at("recordIds"));
        EXPECT_EQ(info, vector.at("canonical_info").get<std::string>());
        const auto master = client::from_hex(vector.at("master_key_hex").get<std::string>());
        EXPECT_EQ(client::derive_mission_data_key(master, mission_id, info), expected);

        const auto result = open_grant_text(grant_of(vector).dump(), &test_key(), mission_id, kNow);
        ASSERT_EQ(outcome(result), "ok") << mission_id;
        const auto& opened = std::get<OpenedGrant>(result);
        EXPECT_TRUE(opened.key.equals(expected));
        for (const std::string record : derivation.at("recordIds")) {
            const std::size_t colon = record.find(':');
            EXPECT_TRUE(opened.grant.allows(record.substr(0, colon), record.substr(colon + 1)));
        }
        for (const Json& blob : vector.at("blobs")) {
            EXPECT_TRUE(std::holds_alternative<SecretBytes>(
                open_value(blob.at("blob").get<std::string>(), opened.key)));
        }
    }
}

TEST(Grant, DerivationDependsOnMissionTablesAndRecords) {
    const client::Bytes master(32, 9);
    const auto key = [&](std::string_view mission, const std::vector<std::string>& tables,
                         const std::vector<std::string>& ids) {
        return client::derive_mission_data_key(master, mission,
                                               client::canonical_info(tables, ids));
    };
    const auto base = key("m", {"notes", "tasks"}, {"notes:1", "tasks:2"});
    EXPECT_EQ(key("m", {"tasks", "notes"}, {"tasks:2", "notes:1"}), base);
    EXPECT_NE(key("n", {"notes", "tasks"}, {"notes:1", "tasks:2"}), base);
    EXPECT_NE(key("m", {"notes"}, {"notes:1", "tasks:2"}), base);
    EXPECT_NE(key("m", {"notes", "tasks"}, {"notes:1"}), base);
}

TEST(Grant, WithoutAPrivateKeyEverythingIsNotConfigured) {
    for (const char* text : {"", "null", "{}", "\xff", R"({"expiresAt":"2000-01-01T00:00:00Z"})"}) {
        EXPECT_EQ(outcome(open_grant_text(text, nullptr, "mission-1", kNow)), "not-configured");
    }
    EXPECT_EQ(outcome(open_grant(valid_grant(), nullptr, "mission-1", kNow)), "not-configured");
}

TEST(Grant, ExpiresAtTheInstantItSays) {
    const core::Instant end = core::parse_instant("2026-04-22T08:00:00Z").value();
    const auto at = [](core::Instant now) {
        return outcome(open_grant(valid_grant(), &test_key(), "mission-1", now));
    };
    EXPECT_EQ(at(end - 1), "ok");
    EXPECT_EQ(at(end), "expired");
    EXPECT_EQ(at(end + 1), "expired");
    const auto parsed = Grant::parse(valid_grant(), "mission-1", kNow);
    ASSERT_TRUE(std::holds_alternative<Grant>(parsed));
    EXPECT_EQ(std::get<Grant>(parsed).expires_at(), end);
}

TEST(Grant, WithoutAReadableEndItCountsAsExpired) {
    for (const Json& end :
         {Json("soon"), Json(""), Json("2026-04-22"), Json("2026-13-01T00:00:00Z"),
          Json(1'800'000'000'000), Json(nullptr), Json::array(), Json::object()}) {
        Json grant = valid_grant();
        grant["expiresAt"] = end;
        EXPECT_EQ(outcome(grant), "expired") << end;
    }
    Json grant = valid_grant();
    grant.erase("expiresAt");
    EXPECT_EQ(outcome(grant), "expired");
    EXPECT_EQ(outcome(Json::object()), "expired");
}

TEST(Grant, ForAnotherMissionIsMalformed) {
    EXPECT_EQ(outcome(valid_grant(), "mission-1"), "ok");
    for (const char* mission : {"mission-2", "mission-1 ", "Mission-1", "mission-", ""}) {
        EXPECT_EQ(outcome(valid_grant(), mission), "malformed") << mission;
    }
    Json grant = valid_grant();
    grant["derivation"].erase("missionId");
    EXPECT_EQ(outcome(grant, ""), "malformed");
    grant["derivation"]["missionId"] = 1;
    EXPECT_EQ(outcome(grant, "1"), "malformed");
    EXPECT_EQ(outcome(grant, ""), "malformed");
}

TEST(Grant, OfAnotherShapeIsMalformed) {
    for (const char* text : {"", " ", "null", "7", "\"grant\"", "[]", "{", "{}x", "\xff\xfe"}) {
        EXPECT_EQ(outcome(open_grant_text(text, &test_key(), "mission-1", kNow)), "malformed")
            << text;
    }
    const auto with = [](const char* pointer, const Json& value) {
        Json grant = valid_grant();
        grant[Json::json_pointer(pointer)] = value;
        return outcome(grant);
    };
    for (const Json& value : {Json(nullptr), Json(7), Json("x"), Json(""), Json::array({1})}) {
        EXPECT_EQ(with("/derivation", value), "malformed") << value;
        EXPECT_EQ(with("/derivation/version", value), "malformed") << value;
        EXPECT_EQ(with("/derivation/tables", value), "malformed") << value;
        EXPECT_EQ(with("/derivation/recordIds", value), "malformed") << value;
        EXPECT_EQ(with("/wrappedKey", value), "malformed") << value;
    }
    EXPECT_EQ(with("/derivation/version", "v2"), "malformed");
    EXPECT_EQ(with("/derivation/recordIds/0", nullptr), "malformed");
    // Not needed for anything, so it may be missing or wrong.
    EXPECT_EQ(with("/issuedAt", nullptr), "ok");
    EXPECT_EQ(with("/more", "fields"), "ok");
}

TEST(Grant, KeyThatIsNoBase64IsMalformed) {
    const std::string base64 = valid_grant().at("wrappedKey");
    for (const std::string& wrong :
         {base64 + "\n", base64 + "=", base64.substr(1), " " + base64, base64 + "!",
          std::string(1 << 20, '!'), std::string("\xff\xff\xff\xff"), std::string("===="),
          base64.substr(0, 100) + "-_" + base64.substr(102)}) {
        Json grant = valid_grant();
        grant["wrappedKey"] = wrong;
        EXPECT_EQ(outcome(grant), "malformed");
    }
}

TEST(Grant, KeyWrappedOtherwiseIsRejected) {
    const auto with = [](const client::Bytes& wrapped) {
        Json grant = valid_grant();
        grant["wrappedKey"] = client::encode_base64(wrapped);
        return outcome(grant);
    };
    const client::Bytes wrapped = client::wrap(kDataKey, test_public_pem());
    EXPECT_EQ(with(wrapped), "ok");
    for (const std::size_t at : {0, 1, 100, 255}) {
        client::Bytes flipped = wrapped;
        flipped[at] ^= 1;
        EXPECT_EQ(with(flipped), "wrap-rejected") << at;
    }
    EXPECT_EQ(with(client::Bytes(wrapped.begin(), wrapped.end() - 1)), "wrap-rejected");
    EXPECT_EQ(with(client::Bytes(1)), "wrap-rejected");
    EXPECT_EQ(with(client::Bytes(32)), "wrap-rejected");
    EXPECT_EQ(with(client::Bytes(256)), "wrap-rejected");
    EXPECT_EQ(with(client::Bytes(256, 0xFF)), "wrap-rejected");  // beyond the modulus
    EXPECT_EQ(with(client::Bytes(257)), "wrap-rejected");
    EXPECT_EQ(with(client::Bytes(1 << 20)), "wrap-rejected");
    EXPECT_EQ(with(client::wrap(kDataKey, test_public_pem(), "SHA1")), "wrap-rejected");
}

TEST(Grant, KeyThatIsNot32BytesIsMalformed) {
    for (const std::size_t size : {0, 1, 16, 31, 33, 64}) {
        Json grant = valid_grant();
        grant["wrappedKey"] =
            client::encode_base64(client::wrap(client::Bytes(size, 1), test_public_pem()));
        EXPECT_EQ(outcome(grant), "malformed") << size;
    }
}

TEST(Grant, AllowsExactlyTheListedRecords) {
    const auto parsed = Grant::parse(valid_grant(), "mission-1", kNow);
    ASSERT_TRUE(std::holds_alternative<Grant>(parsed));
    const auto& grant = std::get<Grant>(parsed);
    EXPECT_TRUE(grant.allows("tasks", "t1"));
    EXPECT_TRUE(grant.allows("notes", "n1"));
    EXPECT_TRUE(grant.allows("notes", "with:colon"));
    EXPECT_FALSE(grant.allows("notes", "t1"));
    EXPECT_FALSE(grant.allows("notes", "n"));
    EXPECT_FALSE(grant.allows("notes", "n11"));
    EXPECT_FALSE(grant.allows("Notes", "n1"));
    EXPECT_FALSE(grant.allows("notes:with", "colon"));
    EXPECT_FALSE(grant.allows("notes", ""));
    EXPECT_FALSE(grant.allows("", "n1"));
    EXPECT_FALSE(grant.allows("notes", std::string_view("n1\0", 3)));
}

TEST(Grant, EmptyListsAllowNothing) {
    Json json = valid_grant();
    json["derivation"]["tables"] = Json::array();
    json["derivation"]["recordIds"] = Json::array();
    const auto result = open_grant(json, &test_key(), "mission-1", kNow);
    ASSERT_EQ(outcome(result), "ok");
    EXPECT_FALSE(std::get<OpenedGrant>(result).grant.allows("notes", "n1"));
}

TEST(Grant, SizeIsNoObstacle) {
    std::vector<std::string> records;
    for (int i = 0; i < 50'000; ++i) {
        records.push_back("notes:record-" + std::to_string(i));
    }
    Json json = valid_grant();
    json["derivation"]["recordIds"] = records;
    const auto result = open_grant_text(json.dump(), &test_key(), "mission-1", kNow);
    ASSERT_EQ(outcome(result), "ok");
    EXPECT_TRUE(std::get<OpenedGrant>(result).grant.allows("notes", "record-49999"));
    EXPECT_FALSE(std::get<OpenedGrant>(result).grant.allows("notes", "record-50000"));
    EXPECT_EQ(outcome(open_grant_text(std::string(1 << 20, '['), &test_key(), "mission-1", kNow)),
              "malformed");
    EXPECT_EQ(
        outcome(open_grant_text(std::string(1 << 20, '\xff'), &test_key(), "mission-1", kNow)),
        "malformed");
}

TEST(Grant, FailuresHaveTheNamesOfTheContract) {
    EXPECT_EQ(to_string(GrantFailure::kNotConfigured), "not-configured");
    EXPECT_EQ(to_string(GrantFailure::kExpired), "expired");
    EXPECT_EQ(to_string(GrantFailure::kMalformed), "malformed");
    EXPECT_EQ(to_string(GrantFailure::kWrapRejected), "wrap-rejected");
}

}  // namespace
}  // namespace mana_ai::crypto
