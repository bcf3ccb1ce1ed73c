// Spans of a distributed trace, in the terms of OpenTelemetry and of W3C Trace Context
// (docs/contract/interface.md, Traces).
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "mana_ai/core/time/instant.hpp"

namespace mana_ai::core {

// All-zero ids mean "none"; those made from random bytes never are.
struct TraceId {
    std::array<std::uint8_t, 16> bytes{};
    bool operator==(const TraceId&) const = default;
};
struct SpanId {
    std::array<std::uint8_t, 8> bytes{};
    bool operator==(const SpanId&) const = default;
};

TraceId trace_id_from(const std::array<std::uint8_t, 16>& random) noexcept;
SpanId span_id_from(const std::array<std::uint8_t, 8>& random) noexcept;

// Lower case, two digits a byte.
std::string to_hex(const TraceId& id);
std::string to_hex(const SpanId& id);

// The value of the header `traceparent` of a request that belongs to this span; sampled.
std::string traceparent(const TraceId& trace_id, const SpanId& span_id);

// The numbers are those of OTLP.
enum class SpanKind { Internal = 1, Client = 3 };
enum class SpanStatus { Unset = 0, Ok = 1, Error = 2 };

using AttributeValue = std::variant<std::string, std::int64_t, double, bool>;

struct SpanAttribute {
    std::string_view key;  // of static storage
    AttributeValue value;
};

struct Span {
    static constexpr std::size_t kMaxAttributes = 32;

    std::string_view name;  // of static storage
    SpanKind kind = SpanKind::Internal;
    TraceId trace_id;
    SpanId span_id;
    std::optional<SpanId> parent;  // nullopt = the trace's first span
    Instant start = 0;
    Instant end = 0;
    std::vector<SpanAttribute> attributes;  // no key twice
    std::size_t dropped_attributes = 0;
    SpanStatus status = SpanStatus::Unset;
    std::string status_message;

    // Replaces the value if the key exists already; above kMaxAttributes it is only counted.
    void set(std::string_view key, AttributeValue value);
};

}  // namespace mana_ai::core
