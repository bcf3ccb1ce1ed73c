#include "mana_ai/extension/watch/trace_exporter.hpp"

#include <algorithm>
#include <exception>
#include <utility>
#include <vector>

#include "mana_ai/core/service/retry_after.hpp"
#include "mana_ai/core/watch/otlp_json.hpp"
#include "mana_ai/pg/log.hpp"
#include "mana_ai/pg/metrics.hpp"
#include "mana_ai/pg/random.hpp"
#include "mana_ai/pg/time.hpp"

namespace mana_ai {

namespace {

constexpr char kServiceName[] = "mana-ai";
constexpr char kUpstream[] = "collector";
constexpr core::Instant kRequestTimeout = 10 * core::kMicrosPerSecond;
constexpr size_t kMaxAnswer = size_t{1} << 20;
constexpr core::Instant kFirstPause = core::kMicrosPerSecond;
constexpr core::Instant kLongestPause = core::kMicrosPerMinute;

bool is_taken(const net::HttpResponse& response) {
    return response.error == net::TransportError::None && response.status / 100 == 2;
}

// The statuses are those that OTLP names; others would be refused again.
bool may_repeat(const net::HttpResponse& response) {
    switch (response.error) {
        case net::TransportError::None:
            return response.status == 429 || response.status == 502 || response.status == 503 ||
                   response.status == 504;
        case net::TransportError::TooLarge:
        case net::TransportError::Malformed:
            return false;
        default:
            return true;
    }
}

core::GateState state_after(const net::HttpResponse& response) {
    if (is_taken(response))
        return core::GateState::Open;
    if (response.error != net::TransportError::None)
        return core::GateState::Unavailable;
    switch (response.status) {
        case 401:
        case 403:
            return core::GateState::KeyRefused;
        case 429:
            return core::GateState::Limited;
        default:
            return core::GateState::Unavailable;
    }
}

std::string reason(const net::HttpResponse& response) {
    if (response.error != net::TransportError::None)
        return net::to_string(response.error);
    return "HTTP " + std::to_string(response.status);
}

}  // namespace

// One request in flight, for the lifetime of its coroutine's frame: the frame is destroyed early if
// the target changes, and with the loop's other tasks.
class TraceExporter::Delivery {
 public:
    explicit Delivery(TraceExporter& exporter) : exporter_(&exporter) {
        exporter.delivering_ = true;
    }
    Delivery(Delivery&& other) noexcept : exporter_(std::exchange(other.exporter_, nullptr)) {}
    Delivery& operator=(Delivery&&) = delete;
    ~Delivery() {
        if (exporter_ == nullptr)
            return;
        exporter_->delivering_ = false;
        exporter_->schedule();
    }

 private:
    TraceExporter* exporter_;
};

TraceExporter::TraceExporter(net::EventLoop& loop)
    : loop_(loop), timer_(loop, [this] { start(); }) {}

TraceExporter::~TraceExporter() {
    loop_.cancel(task_);
    drop(queue_.size());
}

void TraceExporter::set_target(const std::string& endpoint,
                               const pg::settings::Transport& transport) {
    if (client_ != nullptr && endpoint == endpoint_ && transport == transport_)
        return;
    net::HttpClientOptions options;
    options.max_connections_total = 1;
    options.max_connections_per_host = 1;
    options.user_agent = std::string("mana_ai/") + MANA_AI_VERSION;
    options.proxy = transport.proxy;
    options.ca_file = transport.ca_file;
    // Requests to the old target are given up, and their spans are sent to the new one.
    loop_.cancel(task_);
    client_ = std::make_unique<net::HttpClient>(loop_, options);
    endpoint_ = endpoint;
    transport_ = transport;
    failures_ = 0;
    state_ = core::GateState::Open;
    timer_.disarm();
    schedule();
}

void TraceExporter::add(std::string span) {
    if (!has_room()) {
        add_dropped();
        return;
    }
    queued_bytes_ += span.size();
    queue_.push_back(std::move(span));
    schedule();
}

void TraceExporter::begin_drain() {
    draining_ = true;
    timer_.disarm();
    schedule();
}

// Decides when the next request is sent. New spans do not shorten a pause after a failure.
void TraceExporter::schedule() noexcept {
    if (delivering_ || queue_.empty())
        return;
    if (draining_ || (failures_ == 0 && queue_.size() >= kMaxBatch))
        timer_.arm(0);
    else if (!timer_.armed())
        timer_.arm(kLongestDelay);
}

void TraceExporter::start() {
    if (delivering_ || queue_.empty())
        return;
    task_ = loop_.spawn(deliver(Delivery(*this)), [](std::exception_ptr) {
        // Out of memory: the spans are kept, and the end of the frame has set the timer.
    });
}

net::HttpRequest TraceExporter::next_request(size_t& count) const {
    std::vector<std::string_view> spans;
    size_t bytes = 0;
    for (const std::string& span : queue_) {
        if (spans.size() == kMaxBatch || (!spans.empty() && bytes + span.size() > kMaxBatchBytes))
            break;
        spans.push_back(span);
        bytes += span.size();
    }
    count = spans.size();
    net::HttpRequest request;
    request.url = endpoint_ + "/v1/traces";
    request.headers.push_back("Content-Type: application/json");
    request.body = core::otlp_trace_request({kServiceName, MANA_AI_VERSION}, spans);
    request.timeout_us = kRequestTimeout;
    request.max_response_bytes = kMaxAnswer;
    return request;
}

net::Task<void> TraceExporter::deliver([[maybe_unused]] Delivery delivery) {
    size_t count = 0;
    net::HttpRequest request = next_request(count);
    const net::HttpResponse response = co_await client_->send(std::move(request));
    settle(response, count);
}

void TraceExporter::note_state(const net::HttpResponse& response) {
    const core::GateState state = state_after(response);
    if (state != state_)
        since_ = loop_.now_us();
    state_ = state;
    if (state == core::GateState::Limited) {
        refused_++;
        pg::metrics::count(core::Metric::ServiceCallsRefused, {kUpstream});
    } else if (state != core::GateState::Open) {
        failed_++;
        pg::metrics::count(core::Metric::ServiceCallsFailed, {kUpstream});
    }
}

TraceExporter::View TraceExporter::view() const {
    View view;
    view.state = state_;
    view.since = since_;
    view.in_flight = delivering_ ? 1 : 0;
    view.refused = refused_;
    view.failed = failed_;
    if (failures_ > 0 && !delivering_) {
        view.waiting = static_cast<int>((queue_.size() + kMaxBatch - 1) / kMaxBatch);
        view.next_try_at = next_try_at_;
    }
    return view;
}

void TraceExporter::settle(const net::HttpResponse& response, size_t count) {
    note_state(response);
    if (is_taken(response)) {
        failures_ = 0;
        remove_first(count);
        const auto refused =
            std::min(core::otlp_rejected_spans(response.body), static_cast<int64_t>(count));
        if (refused > 0)
            note_trouble("the collector refuses some of the traces, they are dropped");
        else
            note_recovery();
        add_dropped(refused);
    } else if (!may_repeat(response)) {
        failures_ = 0;
        note_trouble("the collector refuses traces (" + reason(response) + "), they are dropped");
        drop(count);
    } else {
        note_trouble("the collector does not take traces (" + reason(response) + "), up to " +
                     std::to_string(kMaxQueued) + " spans are kept");
        if (draining_)
            drop(queue_.size());
        else
            schedule_retry(response);
    }
}

void TraceExporter::schedule_retry(const net::HttpResponse& response) {
    const core::Instant doubled = kFirstPause << std::min(failures_, 6);
    const core::Instant asked =
        core::parse_retry_after(response.retry_after, pg::now()).value_or(0);
    const core::Instant pause = std::min(std::max(doubled, asked), kLongestPause);
    failures_++;
    const core::Instant until_then =
        pause +
        static_cast<core::Instant>(pg::random_fraction() * 0.2 * static_cast<double>(pause));
    next_try_at_ = loop_.now_us() + until_then;
    timer_.arm(until_then);
}

void TraceExporter::add_dropped(int64_t spans) {
    dropped_ += spans;
    if (spans > 0)
        pg::metrics::count(core::Metric::TraceSpansDropped, {}, static_cast<uint64_t>(spans));
}

void TraceExporter::remove_first(size_t count) {
    for (; count > 0 && !queue_.empty(); count--) {
        queued_bytes_ -= queue_.front().size();
        queue_.pop_front();
    }
}

void TraceExporter::drop(size_t count) {
    add_dropped(static_cast<int64_t>(count));
    remove_first(count);
}

// An outage is logged once, however long it lasts.
void TraceExporter::note_trouble(const std::string& what) {
    if (in_trouble_)
        return;
    in_trouble_ = true;
    dropped_before_trouble_ = dropped_;
    pg::log_warning(what);
}

void TraceExporter::note_recovery() {
    if (!in_trouble_)
        return;
    in_trouble_ = false;
    pg::log_info("the collector takes traces again; " +
                 std::to_string(dropped_ - dropped_before_trouble_) + " spans were dropped");
}

}  // namespace mana_ai
