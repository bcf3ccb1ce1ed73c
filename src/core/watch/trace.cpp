#include "mana_ai/core/watch/trace.hpp"

#include <algorithm>
#include <utility>

#include "mana_ai/core/text/hex.hpp"

namespace mana_ai::core {

namespace {

template <std::size_t size>
std::array<std::uint8_t, size> not_all_zero(std::array<std::uint8_t, size> bytes) noexcept {
    if (std::all_of(bytes.begin(), bytes.end(), [](std::uint8_t byte) { return byte == 0; })) {
        bytes.back() = 1;
    }
    return bytes;
}

}  // namespace

TraceId trace_id_from(const std::array<std::uint8_t, 16>& random) noexcept {
    return {not_all_zero(random)};
}

SpanId span_id_from(const std::array<std::uint8_t, 8>& random) noexcept {
    return {not_all_zero(random)};
}

std::string to_hex(const TraceId& id) {
    std::string text;
    text.reserve(2 * id.bytes.size());
    append_hex(text, id.bytes);
    return text;
}

std::string to_hex(const SpanId& id) {
    std::string text;
    append_hex(text, id.bytes);
    return text;
}

std::string traceparent(const TraceId& trace_id, const SpanId& span_id) {
    std::string text;
    text.reserve(55);
    text += "00-";
    append_hex(text, trace_id.bytes);
    text += '-';
    append_hex(text, span_id.bytes);
    text += "-01";
    return text;
}

void Span::set(std::string_view key, AttributeValue value) {
    const auto same = std::find_if(attributes.begin(), attributes.end(),
                                   [&](const SpanAttribute& known) { return known.key == key; });
    if (same != attributes.end()) {
        same->value = std::move(value);
    } else if (attributes.size() < kMaxAttributes) {
        attributes.push_back({key, std::move(value)});
    } else {
        ++dropped_attributes;
    }
}

}  // namespace mana_ai::core
