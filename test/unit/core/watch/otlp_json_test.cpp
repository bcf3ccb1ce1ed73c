#include "mana_ai/core/watch/otlp_json.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "mana_ai/core/text/json.hpp"

namespace mana_ai::core {
namespace {

Span some_span() {
    Span span;
    span.name = "planner.complete";
    span.kind = SpanKind::Client;
    span.trace_id = trace_id_from({1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 0xff});
    span.span_id = span_id_from({0xab, 0, 0, 0, 0, 0, 0, 0x01});
    span.parent = span_id_from({0xcd, 0, 0, 0, 0, 0, 0, 0x02});
    span.start = 1'700'000'000'123'456;
    span.end = 1'700'000'001'000'000;
    return span;
}

Json written(const Span& span) {
    const std::string text = otlp_span(span);
    const std::optional<Json> parsed = parse_json(text);
    EXPECT_TRUE(parsed) << text;
    return parsed.value_or(Json());
}

// The value of the only attribute.
Json written_value(AttributeValue value) {
    Span span = some_span();
    span.set("key", std::move(value));
    const Json json = written(span);
    EXPECT_EQ(json["attributes"].size(), 1U);
    EXPECT_EQ(json["attributes"][0]["key"], "key");
    return json["attributes"][0]["value"];
}

TEST(OtlpJson, IdsAreHex) {
    const Json json = written(some_span());
    EXPECT_EQ(json["traceId"], "0102030405060708090a0b0c0d0e0fff");
    EXPECT_EQ(json["spanId"], "ab00000000000001");
    EXPECT_EQ(json["parentSpanId"], "cd00000000000002");
}

TEST(OtlpJson, ASpanWithoutParentHasNoParentSpanId) {
    Span span = some_span();
    span.parent.reset();
    EXPECT_FALSE(written(span).contains("parentSpanId"));
}

TEST(OtlpJson, TimesAreNanosecondsAsDecimalStrings) {
    const Json json = written(some_span());
    EXPECT_EQ(json["startTimeUnixNano"], Json("1700000000123456000"));
    EXPECT_EQ(json["endTimeUnixNano"], Json("1700000001000000000"));
}

TEST(OtlpJson, ASpanDoesNotEndBeforeItsStart) {
    Span span = some_span();
    span.end = span.start - 1;  // the wall clock was set back
    EXPECT_EQ(written(span)["endTimeUnixNano"], written(span)["startTimeUnixNano"]);
    span.start = span.end = -5;
    EXPECT_EQ(written(span)["startTimeUnixNano"], Json("0"));
}

TEST(OtlpJson, KindIsANumber) {
    EXPECT_EQ(written(some_span())["kind"], Json(3));
    Span span = some_span();
    span.kind = SpanKind::Internal;
    EXPECT_EQ(written(span)["kind"], Json(1));
}

TEST(OtlpJson, StatusCodeIsANumberAndOnlyErrorsHaveAMessage) {
    Span span = some_span();
    EXPECT_FALSE(written(span).contains("status"));
    span.status_message = "timeout";
    span.status = SpanStatus::Error;
    EXPECT_EQ(written(span)["status"], (Json{{"code", 2}, {"message", "timeout"}}));
    span.status = SpanStatus::Ok;
    EXPECT_EQ(written(span)["status"], (Json{{"code", 1}}));
}

TEST(OtlpJson, IntegersAreDecimalStrings) {
    EXPECT_EQ(written_value(std::int64_t{0}), (Json{{"intValue", "0"}}));
    EXPECT_EQ(written_value(std::numeric_limits<std::int64_t>::max()),
              (Json{{"intValue", "9223372036854775807"}}));
    EXPECT_EQ(written_value(std::numeric_limits<std::int64_t>::min()),
              (Json{{"intValue", "-9223372036854775808"}}));
}

TEST(OtlpJson, DoublesAreNumbersUnlessJsonHasNone) {
    EXPECT_EQ(written_value(0.25), (Json{{"doubleValue", 0.25}}));
    EXPECT_EQ(written_value(std::nan("")), (Json{{"doubleValue", "NaN"}}));
    const double infinity = std::numeric_limits<double>::infinity();
    EXPECT_EQ(written_value(infinity), (Json{{"doubleValue", "Infinity"}}));
    EXPECT_EQ(written_value(-infinity), (Json{{"doubleValue", "-Infinity"}}));
    EXPECT_EQ(written_value(std::numeric_limits<double>::denorm_min()),
              (Json{{"doubleValue", std::numeric_limits<double>::denorm_min()}}));
}

TEST(OtlpJson, BooleansAreBooleans) {
    EXPECT_EQ(written_value(true), (Json{{"boolValue", true}}));
    EXPECT_EQ(written_value(false), (Json{{"boolValue", false}}));
}

TEST(OtlpJson, StringsAreEscaped) {
    const std::string text = "a \"quoted\" \\ text\n\twith \x01 and \x7f and Ümläute 🙂";
    EXPECT_EQ(written_value(text), (Json{{"stringValue", text}}));
    EXPECT_EQ(written_value(std::string()), (Json{{"stringValue", ""}}));
}

TEST(OtlpJson, InvalidBytesAreReplacedAndNulIsDropped) {
    EXPECT_EQ(written_value(std::string("a\xff\xc3", 3)),
              (Json{{"stringValue", "a\xEF\xBF\xBD\xEF\xBF\xBD"}}));
    EXPECT_EQ(written_value(std::string("a\0b", 3)), (Json{{"stringValue", "ab"}}));
}

TEST(OtlpJson, LongTextsAreCutBetweenCharacters) {
    for (const std::string& character : {std::string("x"), std::string("ü"), std::string("🙂")}) {
        std::string fits;
        for (std::size_t i = 0; i < kMaxSpanTextChars; ++i) {
            fits += character;
        }
        EXPECT_EQ(written_value(fits), (Json{{"stringValue", fits}}));
        std::string cut = fits.substr(0, fits.size() - character.size()) + "…";
        EXPECT_EQ(written_value(fits + character), (Json{{"stringValue", cut}}));
        EXPECT_EQ(written_value(fits + std::string(100'000, 'y')), (Json{{"stringValue", cut}}));
    }
    Span span = some_span();
    const std::string long_name(5000, 'n');
    span.name = long_name;
    span.status_message = long_name;
    span.status = SpanStatus::Error;
    EXPECT_LT(otlp_span(span).size(), 1200U);
}

TEST(OtlpJson, AttributesPastTheLimitAreOnlyCounted) {
    Span span = some_span();
    EXPECT_FALSE(written(span).contains("attributes"));
    std::vector<std::string> keys;
    for (std::size_t i = 0; i < Span::kMaxAttributes + 2; ++i) {
        keys.push_back("key" + std::to_string(i));
    }
    for (const std::string& key : keys) {
        span.set(key, std::int64_t{1});
    }
    const Json json = written(span);
    EXPECT_EQ(json["attributes"].size(), Span::kMaxAttributes);
    EXPECT_EQ(json["droppedAttributesCount"], Json(2));
}

TEST(OtlpJson, TheRequestNamesServiceAndScope) {
    const std::string first = otlp_span(some_span());
    const std::vector<std::string_view> spans = {first, first};
    const auto request = parse_json(otlp_trace_request({"mana-ai", "1.2.3"}, spans));
    ASSERT_TRUE(request);
    ASSERT_EQ((*request)["resourceSpans"].size(), 1U);
    const Json& resource_spans = (*request)["resourceSpans"][0];
    EXPECT_EQ(resource_spans["resource"]["attributes"],
              (Json::array({{{"key", "service.name"}, {"value", {{"stringValue", "mana-ai"}}}},
                            {{"key", "service.version"}, {"value", {{"stringValue", "1.2.3"}}}}})));
    ASSERT_EQ(resource_spans["scopeSpans"].size(), 1U);
    EXPECT_EQ(resource_spans["scopeSpans"][0]["scope"],
              (Json{{"name", "mana_ai"}, {"version", "1.2.3"}}));
    EXPECT_EQ(resource_spans["scopeSpans"][0]["spans"],
              (Json::array({written(some_span()), written(some_span())})));
}

TEST(OtlpJson, ARequestWithoutSpansIsValid) {
    const auto request = parse_json(otlp_trace_request({"s", "v"}, {}));
    ASSERT_TRUE(request);
    EXPECT_EQ((*request)["resourceSpans"][0]["scopeSpans"][0]["spans"], Json::array());
}

TEST(OtlpJson, ReadsHowManySpansWereRefused) {
    EXPECT_EQ(otlp_rejected_spans(R"({"partialSuccess":{"rejectedSpans":"7"}})"), 7);
    EXPECT_EQ(otlp_rejected_spans(R"({"partialSuccess":{"rejectedSpans":7,"errorMessage":"x"}})"),
              7);
    for (const char* body :
         {"", "{}", R"({"partialSuccess":{}})", R"({"partialSuccess":"rejectedSpans"})",
          R"({"partialSuccess":{"rejectedSpans":-1}})",
          R"({"partialSuccess":{"rejectedSpans":"x"}})",
          R"({"partialSuccess":{"rejectedSpans":null}})", R"(["rejectedSpans"])",
          "rejectedSpans{"}) {
        EXPECT_EQ(otlp_rejected_spans(body), 0) << body;
    }
}

}  // namespace
}  // namespace mana_ai::core
