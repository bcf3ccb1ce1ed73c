// Delivers finished spans to a collector, in batches and in the background: nobody waits for it
// (docs/contract/interface.md, Traces; docs/operations.md, Traces).
//
// OTLP/HTTP: a request that fails with 429, 502, 503, 504 or without an answer is repeated with
// growing pauses; after any other refusal its spans are dropped. Up to kMaxQueued spans are kept;
// further ones are dropped.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <string>

#include "mana_ai/core/service/service_gate.hpp"
#include "mana_ai/core/time/instant.hpp"
#include "mana_ai/net/event_loop.hpp"
#include "mana_ai/net/http_client.hpp"
#include "mana_ai/net/task.hpp"
#include "mana_ai/net/timer.hpp"
#include "mana_ai/pg/settings.hpp"

namespace mana_ai {

class TraceExporter {
 public:
    static constexpr size_t kMaxBatch = 512;                   // spans
    static constexpr size_t kMaxBatchBytes = size_t{4} << 20;  // collectors refuse huge bodies
    static constexpr size_t kMaxQueued = 4096;                 // spans
    static constexpr size_t kMaxQueuedBytes = size_t{16} << 20;
    static constexpr core::Instant kLongestDelay = 2 * core::kMicrosPerSecond;

    // The loop outlives the exporter. Throws std::runtime_error when libcurl cannot start.
    explicit TraceExporter(net::EventLoop& loop);
    // Spans that are queued or being sent count as dropped.
    ~TraceExporter();
    TraceExporter(const TraceExporter&) = delete;
    TraceExporter& operator=(const TraceExporter&) = delete;

    // Where spans are sent from now on, including queued ones. `endpoint` without a trailing slash.
    // Not from within a coroutine.
    void set_target(const std::string& endpoint, const pg::settings::Transport& transport);

    bool has_room() const { return queue_.size() < kMaxQueued && queued_bytes_ < kMaxQueuedBytes; }

    // Takes a result of core::otlp_span(); without room it is dropped.
    void add(std::string span);

    // Counts spans that were not even serialized.
    void add_dropped(int64_t spans = 1);

    // From now on spans are sent at once, and a failure drops them.
    void begin_drain();
    bool is_idle() const { return queue_.empty() && !delivering_; }

    // The state of the collector; instants are on the loop's clock.
    struct View {
        core::GateState state = core::GateState::Open;
        core::Instant since = 0;  // of the state
        int in_flight = 0;
        int waiting = 0;  // requests that wait for the end of a pause
        int64_t refused = 0;
        int64_t failed = 0;
        std::optional<core::Instant> next_try_at;
    };
    View view() const;

 private:
    class Delivery;

    net::Task<void> deliver(Delivery delivery);
    net::HttpRequest next_request(size_t& count) const;
    void settle(const net::HttpResponse& response, size_t count);
    void start();
    void schedule() noexcept;
    void schedule_retry(const net::HttpResponse& response);
    void note_state(const net::HttpResponse& response);
    void remove_first(size_t count);
    void drop(size_t count);
    void note_trouble(const std::string& what);
    void note_recovery();

    net::EventLoop& loop_;
    std::unique_ptr<net::HttpClient> client_;  // separate: missions never wait for a connection
    std::string endpoint_;
    pg::settings::Transport transport_;  // of client_
    net::Timer timer_;
    net::EventLoop::TaskId task_ = 0;

    std::deque<std::string> queue_;  // the first ones may be being sent
    size_t queued_bytes_ = 0;
    bool delivering_ = false;
    bool draining_ = false;
    int failures_ = 0;  // in a row
    core::GateState state_ = core::GateState::Open;
    core::Instant since_ = 0;
    core::Instant next_try_at_ = 0;
    int64_t refused_ = 0;  // requests
    int64_t failed_ = 0;
    int64_t dropped_ = 0;      // spans that no collector has accepted
    bool in_trouble_ = false;  // has been logged
    int64_t dropped_before_trouble_ = 0;
};

}  // namespace mana_ai
