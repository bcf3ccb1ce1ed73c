#include "mana_ai/core/service/rate_headers.hpp"

#include <gtest/gtest.h>

#include <fstream>
#include <string>

#include "mana_ai/core/text/json.hpp"

namespace mana_ai::core {
namespace {

std::optional<RateAllowance> expected(const Json& sample, const char* key) {
    const auto found = sample.find(key);
    if (found == sample.end()) {
        return std::nullopt;
    }
    RateAllowance allowance;
    allowance.limit = (*found)["limit"].get<double>();
    allowance.remaining = (*found)["remaining"].get<double>();
    if (found->contains("reset_ms")) {
        allowance.reset_after = (*found)["reset_ms"].get<Instant>() * 1000;
    }
    allowance.is_window = found->value("window", false);
    return allowance;
}

TEST(RateHeaders, ReadsTheSpellingsOfTheServices) {
    std::ifstream file(MANA_AI_TEST_DATA "/rate_headers.jsonl");
    ASSERT_TRUE(file) << MANA_AI_TEST_DATA;
    int samples = 0;
    for (std::string line; std::getline(file, line); ++samples) {
        const Json sample = Json::parse(line);
        SCOPED_TRACE(sample["service"].get<std::string>());
        const Instant now = *parse_instant(sample["now"].get<std::string>());
        std::string lines;
        if (sample.contains("headers")) {
            for (const Json& header : sample["headers"]) {
                lines += header.get<std::string>() + "\r\n";
            }
        } else {
            lines = rate_headers_in_body(dump_json(sample["body"]));
        }
        const RateHeaders headers = parse_rate_headers(lines, now);
        EXPECT_EQ(headers.requests, expected(sample, "requests"));
        EXPECT_EQ(headers.tokens, expected(sample, "tokens"));
    }
    EXPECT_GE(samples, 12);
}

TEST(RateHeaders, ReadsDurationsAsGoWritesThem) {
    EXPECT_EQ(parse_go_duration("6m0s"), 360 * kMicrosPerSecond);
    EXPECT_EQ(parse_go_duration("1h23m31s"), 5011 * kMicrosPerSecond);
    EXPECT_EQ(parse_go_duration("20ms"), 20'000);
    EXPECT_EQ(parse_go_duration("33.023s"), 33'023'000);
    EXPECT_EQ(parse_go_duration("7.66"), 7'660'000);
    EXPECT_EQ(parse_go_duration("0"), 0);
    EXPECT_EQ(parse_go_duration("2d"), kMicrosPerDay) << "cut, as Retry-After is";
    for (const char* wrong : {"", "s", "-1s", "1x", "1m2", "1e5s", "nan", "inf", "1 s", "1s "}) {
        EXPECT_EQ(parse_go_duration(wrong), std::nullopt) << wrong;
    }
}

TEST(RateHeaders, BodiesWithoutThemAreNoTrouble) {
    for (const char* body :
         {"", "{}", "null", "\"metadata\"", R"({"metadata": 1})", R"({"error": {"metadata": []}})",
          R"({"error": {"metadata": {"headers": "x"}}})", R"([{"metadata": {}}])"}) {
        EXPECT_EQ(rate_headers_in_body(body), "") << body;
    }
}

}  // namespace
}  // namespace mana_ai::core
