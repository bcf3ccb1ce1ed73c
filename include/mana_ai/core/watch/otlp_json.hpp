// Spans as an ExportTraceServiceRequest in the JSON form of OTLP/HTTP: the JSON mapping of protobuf
// with ids in hex and enums as numbers (docs/contract/interface.md, Traces).
//
// A span's texts may be any bytes: the result is valid JSON in valid UTF-8 without U+0000.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "mana_ai/core/watch/trace.hpp"

namespace mana_ai::core {

// Longer texts of a span (its name, an attribute's value, the status message) are cut.
inline constexpr std::size_t kMaxSpanTextChars = 256;

// One span as a JSON object.
std::string otlp_span(const Span& span);

struct TraceSource {
    std::string_view service_name;
    std::string_view service_version;
};

// The request's body; each element of `spans` is a result of otlp_span().
std::string otlp_trace_request(const TraceSource& source, std::span<const std::string_view> spans);

// How many spans the collector has refused, as the body of a successful response says. Any bytes
// may be given; 0 if they cannot be parsed.
std::int64_t otlp_rejected_spans(std::string_view response_body);

}  // namespace mana_ai::core
