// All metrics: their names, help texts and labels. docs/contract/interface.md, Metrics; what to do
// when one moves is in docs/observability.md.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

namespace mana_ai::core {

// In the order of their names, which is the order of the exposition.
enum class Metric : std::uint8_t {
    AgentDecisions,
    BudgetStops,
    ChangesUnkeepable,
    ChangesUnmarked,
    CompactedTurns,
    CompactionsTriggered,
    Cost,
    DatabasesInSafeMode,
    Decrypts,
    DirtyRecords,
    DueLag,
    ErasureFailures,
    GrantScopeViolations,
    GrantSkips,
    HttpRequestDuration,
    HttpRequests,
    InjectionMarkers,
    IterationsRestored,
    LongestTransaction,
    MissionErrors,
    MissionOutcomes,
    MissionsInFlight,
    ParseFailures,
    PlannerRequestDuration,
    PlannerRounds,
    PlansOvertaken,
    PlansProduced,
    PlansWrittenBack,
    ProcessCpu,
    ProcessMaxFds,
    ProcessOpenFds,
    ProcessResidentMemory,
    ProcessStartTime,
    ProviderErrors,
    RemindersEmitted,
    ResearchJobsCompleted,
    ResearchJobsFailed,
    ResearchJobsLimited,
    ResearchJobsPendingSkips,
    ResearchJobsSubmitted,
    ServiceCallLimit,
    ServiceCallsFailed,
    ServiceCallsInFlight,
    ServiceCallsRefused,
    ServiceCallsWaiting,
    ServiceState,
    SnapshotRowsApplied,
    SnapshotsNew,
    SnapshotsUpdated,
    TickDuration,
    Ticks,
    TokensUnpriced,
    TokensUsed,
    ToolCalls,
    ToolOutcomes,
    TraceSpansDropped,
    TriggerErrors,
    Wakeups,
    WebResearch,
};

inline constexpr std::size_t kMetricCount = static_cast<std::size_t>(Metric::WebResearch) + 1;
inline constexpr std::size_t kMaxLabels = 3;
inline constexpr std::size_t kMaxBuckets = 13;

// Replaces the values of open labels once a metric has kMaxOpenSeries series.
inline constexpr std::string_view kOtherLabelValue = "other";
inline constexpr std::size_t kMaxOpenSeries = 1000;  // per metric

enum class MetricType : std::uint8_t { Counter, Gauge, Histogram };

// Values of an open label come from users, models or operators, so their number is unlimited; those
// of a fixed label are defined in the code.
enum class LabelKind : std::uint8_t { Fixed, Open };

struct Label {
    std::string_view name;
    LabelKind kind = LabelKind::Fixed;
};

struct MetricInfo {
    Metric metric{};
    std::string_view name;  // "mana_ai_ticks_total"
    MetricType type = MetricType::Counter;
    std::string_view help;
    std::size_t label_count = 0;
    std::array<Label, kMaxLabels> labels{};
    std::size_t bucket_count = 0;
    std::array<double, kMaxBuckets> buckets{};  // upper bounds, rising; +Inf is not among them
    bool in_millionths = false;                 // counted in millionths, shown in units

    constexpr std::span<const Label> label_names() const { return {labels.data(), label_count}; }
    constexpr std::span<const double> bounds() const { return {buckets.data(), bucket_count}; }
    constexpr bool has_open_label() const {
        for (const Label& label : label_names()) {
            if (label.kind == LabelKind::Open) {
                return true;
            }
        }
        return false;
    }
};

const std::array<MetricInfo, kMetricCount>& metric_catalog() noexcept;
const MetricInfo& describe(Metric metric) noexcept;

// "counter", "gauge", "histogram"
std::string_view name(MetricType type) noexcept;

}  // namespace mana_ai::core
