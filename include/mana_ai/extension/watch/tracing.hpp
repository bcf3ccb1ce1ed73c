// Spans of a run (docs/contract/interface.md, Traces).
//
// If mana_ai.otlp_endpoint is empty, nothing is allocated and every call here is one branch.
//
//     SpanScope span(claimed.trace, "research.discover", core::SpanKind::Client);
//     span.add_header(request.headers);
//
// A span leaves the server. It contains ids, counts and fixed texts, and of a user's texts only
// what is unencrypted in the record. Never decrypted text, never a service's text.
#pragma once

#include <concepts>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "mana_ai/core/time/instant.hpp"
#include "mana_ai/core/watch/trace.hpp"
#include "mana_ai/extension/watch/trace_exporter.hpp"
#include "mana_ai/net/event_loop.hpp"

namespace mana_ai {

class Tracer;

// The parent of new spans. Without a tracer there are none.
struct TraceContext {
    Tracer* tracer = nullptr;  // outlives all users of the context
    core::TraceId trace_id;
    core::SpanId span_id;
};

// One span, from its construction to end() or its destruction. A scope that an exception leaves is
// an error. Names and keys are literals: the span keeps views of them.
class SpanScope {
 public:
    SpanScope() = default;  // no span
    SpanScope(const TraceContext& parent, std::string_view name,
              core::SpanKind kind = core::SpanKind::Internal);
    SpanScope(SpanScope&&) noexcept = default;
    SpanScope& operator=(SpanScope&&) noexcept = default;
    ~SpanScope();

    // Whether there is a span: guards what would be computed for its attributes only.
    explicit operator bool() const { return active_ != nullptr; }

    void set(std::string_view key, std::string_view value);
    void set(std::string_view key, const char* value) { set(key, std::string_view(value)); }
    void set(std::string_view key, double value);
    template <std::integral Number>
    void set(std::string_view key, Number value) {
        if (active_ == nullptr)
            return;
        if constexpr (std::same_as<Number, bool>)
            active_->span.set(key, value);
        else
            active_->span.set(key, static_cast<int64_t>(value));
    }

    // Makes the span an error. `kind` is a fixed name, as in mana_ai.runs.error_kind.
    void fail(std::string_view kind);

    // For calls that belong to the span.
    TraceContext context() const;
    void add_header(std::vector<std::string>& headers) const;  // traceparent

    // Hands the span to the collector; later calls do nothing.
    void end() noexcept;

 private:
    friend class Tracer;
    struct Active {
        Tracer& tracer;
        core::Span span;
        int exceptions;  // under way when the scope began
    };
    std::unique_ptr<Active> active_;
};

// The traces of one process. Its address does not change with the settings.
class Tracer {
 public:
    explicit Tracer(net::EventLoop& loop) : loop_(loop) {}
    Tracer(const Tracer&) = delete;
    Tracer& operator=(const Tracer&) = delete;

    // Reads mana_ai.otlp_endpoint and mana_ai.proxy. Open spans stay open. Without an endpoint
    // queued ones are dropped. Not from within a coroutine.
    void load_settings();

    bool is_on() const { return exporter_ != nullptr; }

    // The first span of a new trace; none when tracing is off.
    SpanScope start_trace(std::string_view name, core::Instant start,
                          core::SpanKind kind = core::SpanKind::Internal);

    // Sends queued spans at once; spans that the collector does not accept are dropped from now on.
    void begin_drain();
    bool is_drained() const { return exporter_ == nullptr || exporter_->is_idle(); }

    // The state of the collector; nullopt without one.
    std::optional<TraceExporter::View> collector() const {
        return exporter_ == nullptr ? std::nullopt : std::optional(exporter_->view());
    }

    // Ends tracing: spans that are queued or being sent count as dropped. A process that exits
    // without destroying its tracer calls it.
    void drop_rest() { exporter_.reset(); }

 private:
    friend class SpanScope;
    template <class Bytes>
    Bytes random_bytes();
    void finish(const core::Span& span);

    net::EventLoop& loop_;
    std::unique_ptr<TraceExporter> exporter_;
    // Drawn many at a time, so that not every id costs a system call.
    std::vector<uint8_t> random_;
};

}  // namespace mana_ai
