#include "mana_ai/core/watch/metric_catalog.hpp"

#include <initializer_list>

namespace mana_ai::core {

namespace {

constexpr Label fixed(std::string_view name) {
    return {name, LabelKind::Fixed};
}

constexpr Label open(std::string_view name) {
    return {name, LabelKind::Open};
}

constexpr MetricInfo made(Metric metric, MetricType type, std::string_view name,
                          std::string_view help, std::initializer_list<Label> labels = {},
                          std::initializer_list<double> buckets = {}) {
    MetricInfo info;
    info.metric = metric;
    info.name = name;
    info.type = type;
    info.help = help;
    for (const Label& label : labels) {
        info.labels[info.label_count++] = label;
    }
    for (const double bound : buckets) {
        info.buckets[info.bucket_count++] = bound;
    }
    return info;
}

constexpr MetricInfo counter(Metric metric, std::string_view name, std::string_view help,
                             std::initializer_list<Label> labels = {}) {
    return made(metric, MetricType::Counter, name, help, labels);
}

// Sums of integers do not depend on the order.
constexpr MetricInfo in_millionths(MetricInfo info) {
    info.in_millionths = true;
    return info;
}

constexpr MetricInfo gauge(Metric metric, std::string_view name, std::string_view help,
                           std::initializer_list<Label> labels = {}) {
    return made(metric, MetricType::Gauge, name, help, labels);
}

constexpr MetricInfo histogram(Metric metric, std::string_view name, std::string_view help,
                               std::initializer_list<double> buckets,
                               std::initializer_list<Label> labels = {}) {
    return made(metric, MetricType::Histogram, name, help, labels, buckets);
}

constexpr std::array<MetricInfo, kMetricCount> kCatalog = {
    counter(Metric::AgentDecisions, "mana_ai_agent_decisions_total",
            "Decisions of the gates on missions that have an agent.", {fixed("decision")}),
    counter(Metric::BudgetStops, "mana_ai_budget_stops_total",
            "Missions that a budget held back, at every look, and plans that it ended early.",
            {fixed("scope")}),
    counter(Metric::ChangesUnkeepable, "mana_ai_changes_unkeepable_total",
            "Changes of records whose ids are too long for a snapshot."),
    counter(Metric::ChangesUnmarked, "mana_ai_changes_unmarked_total",
            "Changes that could neither be folded nor marked; the log is folded again for them."),
    histogram(Metric::CompactedTurns, "mana_ai_compacted_turns",
              "Messages that one compaction replaced by a summary.", {1, 2, 4, 8, 16, 32, 64, 128}),
    counter(Metric::CompactionsTriggered, "mana_ai_compactions_triggered_total",
            "Conversations that were compacted because they neared the model's context size."),
    in_millionths(counter(Metric::Cost, "mana_ai_cost_total",
                          "What model replies have cost whose price was known when they came.",
                          {open("agent_id"), fixed("currency")})),
    gauge(Metric::DatabasesInSafeMode, "mana_ai_databases_in_safe_mode",
          "Databases without a worker because processes of mana_ai crashed there."),
    counter(Metric::Decrypts, "mana_ai_decrypts_total",
            "Records that were decrypted under a mission's key grant.", {open("table")}),
    gauge(Metric::DirtyRecords, "mana_ai_dirty_records",
          "Records whose snapshot waits for its repair from the log."),
    histogram(Metric::DueLag, "mana_ai_due_lag_seconds",
              "Time from when a mission could have been planned until its first model request.",
              {0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30, 60, 300, 900, 3600, 21600}),
    counter(Metric::ErasureFailures, "mana_ai_erasure_failures_total",
            "Times that an erasure of a user could not be completed because of an error."),
    counter(Metric::GrantScopeViolations, "mana_ai_grant_scope_violations_total",
            "Attempts to read a record that the mission's key grant does not cover; each was "
            "refused.",
            {open("table")}),
    counter(Metric::GrantSkips, "mana_ai_grant_skips_total", "Key grants that could not be used.",
            {fixed("reason")}),
    histogram(Metric::HttpRequestDuration, "mana_ai_http_request_duration_seconds",
              "Time that answering a request to our own HTTP endpoint took.",
              {0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10},
              {open("method"), open("path"), fixed("status")}),
    counter(Metric::HttpRequests, "mana_ai_http_requests_total",
            "Requests to our own HTTP endpoint.", {open("method"), open("path"), fixed("status")}),
    counter(Metric::InjectionMarkers, "mana_ai_injection_markers_total",
            "Tool calls of models whose arguments carried a marker of prompt injection.",
            {open("tool")}),
    counter(Metric::IterationsRestored, "mana_ai_iterations_restored_total",
            "Iterations that an older copy had removed or set back and that were restored."),
    gauge(Metric::LongestTransaction, "mana_ai_longest_transaction_seconds",
          "The longest transaction of a worker or tick since the server's start."),
    counter(Metric::MissionErrors, "mana_ai_mission_errors_total",
            "Mission runs that failed, of whatever cause."),
    counter(Metric::MissionOutcomes, "mana_ai_mission_outcomes_total",
            "Mission runs that ended, as recorded in mana_ai.runs.", {fixed("outcome")}),
    gauge(Metric::MissionsInFlight, "mana_ai_missions_in_flight", "Missions that are running."),
    counter(Metric::ParseFailures, "mana_ai_parse_failures_total",
            "Mission runs that failed because there was no plan: the model service failed, or its "
            "reply could not be read."),
    histogram(Metric::PlannerRequestDuration, "mana_ai_planner_request_duration_seconds",
              "Time from sending a request to the model service until its reply or its failure.",
              {0.25, 0.5, 1, 2, 5, 10, 30, 60}),
    histogram(Metric::PlannerRounds, "mana_ai_planner_rounds",
              "Model replies that a finished plan took.", {1, 2, 3, 4, 5}),
    counter(
        Metric::PlansOvertaken, "mana_ai_plans_overtaken_total",
        "Plans of which something that they were made of was another when they were written, or "
        "nobody could tell.",
        {fixed("state")}),
    counter(Metric::PlansProduced, "mana_ai_plans_produced_total", "Plans that a model finished."),
    counter(Metric::PlansWrittenBack, "mana_ai_plans_written_back_total",
            "Plans that were written to their mission as an iteration."),
    counter(Metric::ProcessCpu, "mana_ai_process_cpu_seconds_total",
            "CPU time that the worker process has used, user and system.", {fixed("database")}),
    gauge(Metric::ProcessMaxFds, "mana_ai_process_max_fds",
          "File descriptors that the worker process may have open.", {fixed("database")}),
    gauge(Metric::ProcessOpenFds, "mana_ai_process_open_fds",
          "File descriptors that the worker process has open.", {fixed("database")}),
    gauge(Metric::ProcessResidentMemory, "mana_ai_process_resident_memory_bytes",
          "Memory of the worker process that is in RAM, shared memory included.",
          {fixed("database")}),
    gauge(Metric::ProcessStartTime, "mana_ai_process_start_time_seconds",
          "When the worker process began, in seconds since the Unix epoch.", {fixed("database")}),
    counter(Metric::ProviderErrors, "mana_ai_provider_errors_total",
            "Model requests that failed, each attempt counted.", {open("provider"), fixed("kind")}),
    counter(Metric::RemindersEmitted, "mana_ai_reminders_emitted_total",
            "Reminders that were put into a model request.",
            {fixed("producer"), fixed("severity")}),
    counter(Metric::ResearchJobsCompleted, "mana_ai_research_jobs_completed_total",
            "Deep research jobs that came back with a result.", {open("provider")}),
    counter(Metric::ResearchJobsFailed, "mana_ai_research_jobs_failed_total",
            "Deep research jobs that failed, were cancelled or ran out of time.",
            {open("provider")}),
    counter(Metric::ResearchJobsLimited, "mana_ai_research_jobs_limited_total",
            "Deep research that was not ordered because of a daily limit or a budget.",
            {open("provider")}),
    counter(Metric::ResearchJobsPendingSkips, "mana_ai_research_jobs_pending_skips_total",
            "Times that a mission was left waiting for its deep research job."),
    counter(Metric::ResearchJobsSubmitted, "mana_ai_research_jobs_submitted_total",
            "Deep research jobs that were accepted.", {open("provider")}),
    gauge(Metric::ServiceCallLimit, "mana_ai_service_call_limit",
          "Calls that a service gets at once, as learned.", {fixed("database"), fixed("upstream")}),
    counter(Metric::ServiceCallsFailed, "mana_ai_service_calls_failed_total",
            "Calls that failed for a reason that may be the service's.", {fixed("upstream")}),
    gauge(Metric::ServiceCallsInFlight, "mana_ai_service_calls_in_flight",
          "Calls that a service has not answered yet.", {fixed("database"), fixed("upstream")}),
    counter(Metric::ServiceCallsRefused, "mana_ai_service_calls_refused_total",
            "Calls that a service refused because there were too many.", {fixed("upstream")}),
    gauge(Metric::ServiceCallsWaiting, "mana_ai_service_calls_waiting",
          "Calls that wait for their turn at a service.", {fixed("database"), fixed("upstream")}),
    gauge(Metric::ServiceState, "mana_ai_service_state",
          "1 for the state that a service is in: open, limited, unavailable or key_refused.",
          {fixed("database"), fixed("upstream"), fixed("state")}),
    counter(Metric::SnapshotRowsApplied, "mana_ai_snapshot_rows_applied_total",
            "Rows of the log that were folded into snapshots."),
    counter(Metric::SnapshotsNew, "mana_ai_snapshots_new_total",
            "Snapshots of missions and agents that were made."),
    counter(Metric::SnapshotsUpdated, "mana_ai_snapshots_updated_total",
            "Snapshots of missions and agents that were changed or removed."),
    histogram(Metric::TickDuration, "mana_ai_tick_duration_seconds",
              "Time from a tick's start until the last of its missions ended.",
              {0.1, 0.5, 1, 2, 5, 10, 30, 60, 120}),
    counter(Metric::Ticks, "mana_ai_ticks_total", "Ticks that ended."),
    counter(Metric::TokensUnpriced, "mana_ai_tokens_unpriced_total",
            "Tokens of model replies whose price was not known when they came.", {open("model")}),
    counter(Metric::TokensUsed, "mana_ai_tokens_used_total", "Tokens that model replies have cost.",
            {open("agent_id")}),
    counter(Metric::ToolCalls, "mana_ai_tool_calls_total",
            "Tool calls that models made, by what became of them.",
            {open("tool"), fixed("policy"), fixed("outcome")}),
    counter(Metric::ToolOutcomes, "mana_ai_tool_outcomes_total",
            "Steps of a mission's last plan, by what devices had made of them when the next plan "
            "was written.",
            {open("tool"), fixed("outcome")}),
    counter(Metric::TraceSpansDropped, "mana_ai_trace_spans_dropped_total",
            "Trace spans that were thrown away because the collector did not take them."),
    counter(Metric::TriggerErrors, "mana_ai_trigger_errors_total",
            "Errors that the trigger on mana-sync's table caught."),
    counter(Metric::Wakeups, "mana_ai_wakeups_total",
            "Missions that changes of their inputs have made due, and what else came of changes.",
            {fixed("reason")}),
    counter(Metric::WebResearch, "mana_ai_web_research_total",
            "Research on the web before a plan, by what came of it.", {fixed("outcome")}),
};

constexpr bool catalog_is_consistent() {
    for (std::size_t i = 0; i < kMetricCount; ++i) {
        const MetricInfo& info = kCatalog[i];
        const bool is_total = info.name.ends_with("_total");
        // Only what has labels is read as millionths.
        if (static_cast<std::size_t>(info.metric) != i || !info.name.starts_with("mana_ai_") ||
            info.help.empty() || is_total != (info.type == MetricType::Counter) ||
            (info.in_millionths && info.label_count == 0) ||
            (info.bucket_count > 0) != (info.type == MetricType::Histogram) ||
            (i > 0 && kCatalog[i - 1].name >= info.name)) {
            return false;
        }
        for (std::size_t b = 1; b < info.bucket_count; ++b) {
            if (info.buckets[b - 1] >= info.buckets[b]) {
                return false;
            }
        }
    }
    return true;
}
static_assert(catalog_is_consistent());

}  // namespace

const std::array<MetricInfo, kMetricCount>& metric_catalog() noexcept {
    return kCatalog;
}

const MetricInfo& describe(Metric metric) noexcept {
    return kCatalog[static_cast<std::size_t>(metric)];
}

std::string_view name(MetricType type) noexcept {
    switch (type) {
        case MetricType::Counter:
            return "counter";
        case MetricType::Gauge:
            return "gauge";
        case MetricType::Histogram:
            return "histogram";
    }
    return "untyped";
}

}  // namespace mana_ai::core
