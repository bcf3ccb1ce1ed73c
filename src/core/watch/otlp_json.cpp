#include "mana_ai/core/watch/otlp_json.hpp"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <iterator>

#include "mana_ai/core/text/json.hpp"
#include "mana_ai/core/text/utf8.hpp"

// Written directly, without a tree of values: a span costs about a microsecond, and every mission
// makes several.

namespace mana_ai::core {

namespace {

bool is_plain(std::string_view text) noexcept {
    return std::all_of(text.begin(), text.end(), [](char c) {
        const auto byte = static_cast<unsigned char>(c);
        return byte >= 0x20 && byte < 0x7f && c != '"' && c != '\\';
    });
}

void append_string(std::string& out, std::string_view text) {
    if (text.size() <= kMaxSpanTextChars && is_plain(text)) {
        out += '"';
        out += text;
        out += '"';
        return;
    }
    // A character has at most four bytes, so later ones cannot be within the limit.
    const std::string_view enough = text.substr(0, 4 * (kMaxSpanTextChars + 1));
    std::string clean = cut_utf8(enough, kMaxSpanTextChars);
    std::erase(clean, '\0');
    out += json_string(clean);
}

template <class Number>
void append_number(std::string& out, Number value) {
    char digits[32];
    out.append(std::begin(digits), std::to_chars(std::begin(digits), std::end(digits), value).ptr);
}

// 64-bit integers are decimal strings.
void append_int64(std::string& out, std::int64_t value) {
    out += '"';
    append_number(out, value);
    out += '"';
}

void append_nanoseconds(std::string& out, Instant instant) {
    out += '"';
    append_number(out, std::max<Instant>(instant, 0));
    out += instant > 0 ? "000\"" : "\"";
}

// JSON has no such numbers; protobuf's mapping writes them as strings.
void append_double(std::string& out, double value) {
    if (std::isnan(value)) {
        out += R"("NaN")";
    } else if (std::isinf(value)) {
        out += value > 0 ? R"("Infinity")" : R"("-Infinity")";
    } else {
        append_number(out, value);
    }
}

struct AppendValue {
    std::string& out;
    void operator()(const std::string& value) const {
        out += R"({"stringValue":)";
        append_string(out, value);
    }
    void operator()(std::int64_t value) const {
        out += R"({"intValue":)";
        append_int64(out, value);
    }
    void operator()(double value) const {
        out += R"({"doubleValue":)";
        append_double(out, value);
    }
    void operator()(bool value) const {
        out += R"({"boolValue":)";
        out += value ? "true" : "false";
    }
};

void append_attribute(std::string& out, const SpanAttribute& attribute) {
    out += R"({"key":)";
    append_string(out, attribute.key);
    out += R"(,"value":)";
    std::visit(AppendValue{out}, attribute.value);
    out += "}}";
}

void append_attributes(std::string& out, const Span& span) {
    const std::size_t count = std::min(span.attributes.size(), Span::kMaxAttributes);
    const std::size_t dropped = span.dropped_attributes + span.attributes.size() - count;
    if (count > 0) {
        out += R"(,"attributes":[)";
        for (std::size_t i = 0; i < count; ++i) {
            if (i > 0) {
                out += ',';
            }
            append_attribute(out, span.attributes[i]);
        }
        out += ']';
    }
    if (dropped > 0) {
        out += R"(,"droppedAttributesCount":)";
        append_number(out, std::min<std::size_t>(dropped, UINT32_MAX));
    }
}

void append_status(std::string& out, const Span& span) {
    if (span.status == SpanStatus::Unset) {
        return;
    }
    out += R"(,"status":{"code":)";
    append_number(out, static_cast<int>(span.status));
    // Only errors have a message.
    if (span.status == SpanStatus::Error && !span.status_message.empty()) {
        out += R"(,"message":)";
        append_string(out, span.status_message);
    }
    out += '}';
}

}  // namespace

std::string otlp_span(const Span& span) {
    std::string out;
    out.reserve(320 + 96 * span.attributes.size());
    out += R"({"traceId":")";
    out += to_hex(span.trace_id);
    out += R"(","spanId":")";
    out += to_hex(span.span_id);
    if (span.parent) {
        out += R"(","parentSpanId":")";
        out += to_hex(*span.parent);
    }
    out += R"(","name":)";
    append_string(out, span.name);
    out += R"(,"kind":)";
    append_number(out, static_cast<int>(span.kind));
    out += R"(,"startTimeUnixNano":)";
    append_nanoseconds(out, span.start);
    out += R"(,"endTimeUnixNano":)";
    append_nanoseconds(out, std::max(span.start, span.end));
    append_attributes(out, span);
    append_status(out, span);
    out += '}';
    return out;
}

std::string otlp_trace_request(const TraceSource& source, std::span<const std::string_view> spans) {
    std::size_t size = 512;
    for (const std::string_view span : spans) {
        size += span.size() + 1;
    }
    std::string out;
    out.reserve(size);
    out += R"({"resourceSpans":[{"resource":{"attributes":[{"key":"service.name","value":)";
    out += R"({"stringValue":)";
    append_string(out, source.service_name);
    out += R"(}},{"key":"service.version","value":{"stringValue":)";
    append_string(out, source.service_version);
    out += R"(}}]},"scopeSpans":[{"scope":{"name":"mana_ai","version":)";
    append_string(out, source.service_version);
    out += R"(},"spans":[)";
    for (std::size_t i = 0; i < spans.size(); ++i) {
        if (i > 0) {
            out += ',';
        }
        out += spans[i];
    }
    out += "]}]}]}";
    return out;
}

std::int64_t otlp_rejected_spans(std::string_view response_body) {
    if (response_body.find("rejectedSpans") == std::string_view::npos) {
        return 0;
    }
    const std::optional<Json> body = parse_json(response_body);
    if (!body || !body->is_object()) {
        return 0;
    }
    const auto partial = body->find("partialSuccess");
    if (partial == body->end() || !partial->is_object()) {
        return 0;
    }
    const auto rejected = partial->find("rejectedSpans");
    if (rejected == partial->end()) {
        return 0;
    }
    std::int64_t count = 0;
    if (rejected->is_number_integer()) {
        count = rejected->get<std::int64_t>();
    } else if (rejected->is_string()) {
        const auto& digits = rejected->get_ref<const std::string&>();
        std::from_chars(digits.data(), digits.data() + digits.size(), count);
    }
    return std::max<std::int64_t>(count, 0);
}

}  // namespace mana_ai::core
