#include "mana_ai/core/watch/trace.hpp"

#include <gtest/gtest.h>

namespace mana_ai::core {
namespace {

TEST(Trace, IdsAreTheGivenBytesInLowerCaseHex) {
    const TraceId trace_id = trace_id_from({0x4b, 0xf9, 0x2f, 0x35, 0x77, 0xb3, 0x4d, 0xa6, 0xa3,
                                            0xce, 0x92, 0x9d, 0x0e, 0x0e, 0x47, 0x36});
    const SpanId span_id = span_id_from({0x00, 0xf0, 0x67, 0xaa, 0x0b, 0xa9, 0x02, 0xb7});
    EXPECT_EQ(to_hex(trace_id), "4bf92f3577b34da6a3ce929d0e0e4736");
    EXPECT_EQ(to_hex(span_id), "00f067aa0ba902b7");
    EXPECT_EQ(traceparent(trace_id, span_id),
              "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
}

TEST(Trace, IdsAreNeverAllZero) {
    EXPECT_NE(trace_id_from({}), TraceId{});
    EXPECT_NE(span_id_from({}), SpanId{});
    EXPECT_EQ(to_hex(trace_id_from({})).size(), 32U);
    EXPECT_EQ(to_hex(span_id_from({})).size(), 16U);
}

TEST(Trace, ALaterValueReplacesAnEarlierOne) {
    Span span;
    span.set("outcome", std::string("running"));
    span.set("rounds", std::int64_t{1});
    span.set("outcome", std::string("planned"));
    ASSERT_EQ(span.attributes.size(), 2U);
    EXPECT_EQ(span.attributes[0].value, AttributeValue(std::string("planned")));
}

TEST(Trace, AttributesPastTheLimitAreCounted) {
    Span span;
    std::vector<std::string> keys;
    for (std::size_t i = 0; i < Span::kMaxAttributes + 3; ++i) {
        keys.push_back("key" + std::to_string(i));
    }
    for (const std::string& key : keys) {
        span.set(key, true);
    }
    EXPECT_EQ(span.attributes.size(), Span::kMaxAttributes);
    EXPECT_EQ(span.dropped_attributes, 3U);
    span.set("key0", false);
    EXPECT_EQ(span.attributes[0].value, AttributeValue(false));
}

}  // namespace
}  // namespace mana_ai::core
