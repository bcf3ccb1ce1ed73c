#include "mana_ai/extension/watch/tracing.hpp"

#include <cstring>
#include <exception>

#include "mana_ai/core/watch/otlp_json.hpp"
#include "mana_ai/pg/random.hpp"
#include "mana_ai/pg/settings.hpp"
#include "mana_ai/pg/time.hpp"

namespace mana_ai {

namespace {

constexpr size_t kRandomStock = 1024;  // bytes
// A span must not hold a megabyte until it is serialized and cut.
constexpr size_t kMaxAttributeBytes = 4 * (core::kMaxSpanTextChars + 1);

}  // namespace

SpanScope::SpanScope(const TraceContext& parent, std::string_view name, core::SpanKind kind) {
    if (parent.tracer == nullptr || !parent.tracer->is_on())
        return;
    // Not by make_unique: clang before 16 cannot initialize an aggregate with parentheses.
    active_.reset(new Active{*parent.tracer, core::Span{}, std::uncaught_exceptions()});
    core::Span& span = active_->span;
    span.name = name;
    span.kind = kind;
    span.trace_id = parent.trace_id;
    span.parent = parent.span_id;
    span.span_id = core::span_id_from(parent.tracer->random_bytes<decltype(core::SpanId::bytes)>());
    span.start = pg::now();
    span.attributes.reserve(10);
}

SpanScope::~SpanScope() {
    if (active_ == nullptr)
        return;
    if (std::uncaught_exceptions() > active_->exceptions &&
        active_->span.status != core::SpanStatus::Error)
        fail("internal");
    end();
}

void SpanScope::set(std::string_view key, std::string_view value) {
    if (active_ != nullptr)
        active_->span.set(key, std::string(value.substr(0, kMaxAttributeBytes)));
}

void SpanScope::set(std::string_view key, double value) {
    if (active_ != nullptr)
        active_->span.set(key, value);
}

void SpanScope::fail(std::string_view kind) {
    if (active_ == nullptr)
        return;
    active_->span.status = core::SpanStatus::Error;
    active_->span.status_message = kind;
}

TraceContext SpanScope::context() const {
    if (active_ == nullptr)
        return {};
    return {&active_->tracer, active_->span.trace_id, active_->span.span_id};
}

void SpanScope::add_header(std::vector<std::string>& headers) const {
    if (active_ != nullptr)
        headers.push_back("traceparent: " +
                          core::traceparent(active_->span.trace_id, active_->span.span_id));
}

void SpanScope::end() noexcept {
    const std::unique_ptr<Active> active = std::move(active_);
    if (active == nullptr)
        return;
    try {
        active->span.end = pg::now();
        active->tracer.finish(active->span);
    } catch (const std::exception&) {
        // Out of memory: one span less.
    }
}

void Tracer::load_settings() {
    const std::string endpoint = pg::settings::otlp_endpoint();
    if (endpoint.empty()) {
        drop_rest();
        return;
    }
    if (exporter_ == nullptr)
        exporter_ = std::make_unique<TraceExporter>(loop_);
    exporter_->set_target(endpoint, pg::settings::transport());
}

template <class Bytes>
Bytes Tracer::random_bytes() {
    Bytes bytes;
    if (random_.size() < bytes.size()) {
        random_.resize(kRandomStock);
        pg::fill_random(random_.data(), random_.size());
    }
    memcpy(bytes.data(), random_.data() + random_.size() - bytes.size(), bytes.size());
    random_.resize(random_.size() - bytes.size());
    return bytes;
}

SpanScope Tracer::start_trace(std::string_view name, core::Instant start, core::SpanKind kind) {
    if (!is_on())
        return {};
    const TraceContext trace{
        this, core::trace_id_from(random_bytes<decltype(core::TraceId::bytes)>()), {}};
    SpanScope scope(trace, name, kind);
    scope.active_->span.parent.reset();
    scope.active_->span.start = start;
    return scope;
}

void Tracer::finish(const core::Span& span) {
    if (exporter_ == nullptr)
        return;
    if (exporter_->has_room())
        exporter_->add(core::otlp_span(span));
    else
        exporter_->add_dropped();
}

void Tracer::begin_drain() {
    if (exporter_ != nullptr)
        exporter_->begin_drain();
}

}  // namespace mana_ai
