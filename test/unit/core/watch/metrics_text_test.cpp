#include "mana_ai/core/watch/metrics_text.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>
#include <sstream>

namespace mana_ai::core {
namespace {

std::vector<std::string> lines_with(const std::string& text, const std::string& beginning) {
    std::vector<std::string> found;
    std::istringstream lines(text);
    for (std::string line; std::getline(lines, line);) {
        if (line.starts_with(beginning)) {
            found.push_back(line);
        }
    }
    return found;
}

std::string label_value(std::string_view value, std::size_t capacity = 96) {
    std::string out(capacity, '#');
    out.resize(write_label_value(value, out.data(), capacity));
    return out;
}

TEST(MetricCatalog, NamesTheMetricsOfTheInterface) {
    std::set<std::string_view> names;
    for (const MetricInfo& info : metric_catalog()) {
        names.insert(info.name);
        EXPECT_EQ(&describe(info.metric), &info);
        EXPECT_EQ(info.help.back(), '.') << info.name;
    }
    for (const char* name : {"ticks_total",
                             "tick_duration_seconds",
                             "plans_produced_total",
                             "plans_written_back_total",
                             "parse_failures_total",
                             "mission_errors_total",
                             "snapshots_new_total",
                             "snapshots_updated_total",
                             "snapshot_rows_applied_total",
                             "planner_request_duration_seconds",
                             "planner_rounds",
                             "tool_calls_total",
                             "tool_outcomes_total",
                             "web_research_total",
                             "provider_errors_total",
                             "agent_decisions_total",
                             "budget_stops_total",
                             "tokens_used_total",
                             "cost_total",
                             "tokens_unpriced_total",
                             "decrypts_total",
                             "grant_scope_violations_total",
                             "grant_skips_total",
                             "reminders_emitted_total",
                             "compactions_triggered_total",
                             "compacted_turns",
                             "research_jobs_submitted_total",
                             "research_jobs_completed_total",
                             "research_jobs_failed_total",
                             "research_jobs_limited_total",
                             "research_jobs_pending_skips_total",
                             "http_requests_total",
                             "http_request_duration_seconds",
                             "mission_outcomes_total",
                             "missions_in_flight",
                             "due_lag_seconds",
                             "dirty_records",
                             "longest_transaction_seconds",
                             "trigger_errors_total",
                             "process_resident_memory_bytes",
                             "process_cpu_seconds_total",
                             "process_open_fds",
                             "process_start_time_seconds"}) {
        EXPECT_TRUE(names.contains(std::string("mana_ai_") + name)) << name;
    }
}

TEST(MetricsText, DescribesEveryMetricOnceAndInOrder) {
    const std::string text = metrics_text({});
    const auto help = lines_with(text, "# HELP ");
    const auto type = lines_with(text, "# TYPE ");
    EXPECT_EQ(help.size(), kMetricCount);
    EXPECT_EQ(type.size(), kMetricCount);
    EXPECT_TRUE(std::is_sorted(type.begin(), type.end()));
    EXPECT_TRUE(text.ends_with('\n'));
    EXPECT_EQ(lines_with(text, "# TYPE mana_ai_planner_rounds ").at(0),
              "# TYPE mana_ai_planner_rounds histogram");
    EXPECT_EQ(lines_with(text, "mana_ai_").size(), 0U);
}

TEST(MetricsText, WritesSeriesUnderTheirMetricSortedByLabelValues) {
    MetricsState state;
    state.series.push_back({Metric::ToolCalls, {"b", "propose", "deferred"}, 2});
    state.series.push_back({Metric::Ticks, {}, 7});
    state.series.push_back({Metric::ToolCalls, {"a", "propose", "rejected"}, 1});
    state.series.push_back({Metric::ToolCalls, {"a", "propose", "deferred"}, 3});
    const std::string text = metrics_text(state);
    const std::string expected =
        "# TYPE mana_ai_tool_calls_total counter\n"
        "mana_ai_tool_calls_total{service=\"mana-ai\",tool=\"a\",policy=\"propose\",outcome="
        "\"deferred\"} 3\n"
        "mana_ai_tool_calls_total{service=\"mana-ai\",tool=\"a\",policy=\"propose\",outcome="
        "\"rejected\"} 1\n"
        "mana_ai_tool_calls_total{service=\"mana-ai\",tool=\"b\",policy=\"propose\",outcome="
        "\"deferred\"} 2\n"
        "# HELP mana_ai_tool_outcomes_total ";
    EXPECT_NE(text.find(expected), std::string::npos) << text;
    EXPECT_EQ(lines_with(text, "mana_ai_ticks_total").at(0),
              "mana_ai_ticks_total{service=\"mana-ai\"} 7");
}

TEST(MetricsText, EscapesWhatWouldEndALabelValue) {
    MetricsState state;
    state.series.push_back({Metric::TokensUsed, {"a\"} 1\nmana_ai_forged_total{x=\"\\"}, 5});
    const std::string text = metrics_text(state);
    EXPECT_EQ(lines_with(text, "mana_ai_tokens_used_total").at(0),
              "mana_ai_tokens_used_total{service=\"mana-ai\",agent_id=\"a\\\"} "
              "1\\nmana_ai_forged_total{x=\\\"\\\\\"} 5");
    EXPECT_EQ(lines_with(text, "mana_ai_forged_total").size(), 0U);
}

TEST(MetricsText, AddsUpTheBucketsOfAHistogram) {
    MetricsState state;
    state.histograms.push_back({Metric::PlannerRounds, {}, {1, 0, 2, 0, 0, 4}, 31});
    const std::string expected =
        "# TYPE mana_ai_planner_rounds histogram\n"
        "mana_ai_planner_rounds_bucket{service=\"mana-ai\",le=\"1\"} 1\n"
        "mana_ai_planner_rounds_bucket{service=\"mana-ai\",le=\"2\"} 1\n"
        "mana_ai_planner_rounds_bucket{service=\"mana-ai\",le=\"3\"} 3\n"
        "mana_ai_planner_rounds_bucket{service=\"mana-ai\",le=\"4\"} 3\n"
        "mana_ai_planner_rounds_bucket{service=\"mana-ai\",le=\"5\"} 3\n"
        "mana_ai_planner_rounds_bucket{service=\"mana-ai\",le=\"+Inf\"} 7\n"
        "mana_ai_planner_rounds_sum{service=\"mana-ai\"} 31\n"
        "mana_ai_planner_rounds_count{service=\"mana-ai\"} 7\n";
    EXPECT_NE(metrics_text(state).find(expected), std::string::npos);
}

TEST(MetricsText, BoundsReadAsTheyAreWritten) {
    MetricsState state;
    state.histograms.push_back(
        {Metric::HttpRequestDuration, {"GET", "/health", "200"}, std::vector<uint64_t>(12), 0});
    const auto buckets =
        lines_with(metrics_text(state), "mana_ai_http_request_duration_seconds_bucket");
    ASSERT_EQ(buckets.size(), 12U);
    EXPECT_EQ(buckets.front(),
              "mana_ai_http_request_duration_seconds_bucket{service=\"mana-ai\",method=\"GET\","
              "path=\"/health\",status=\"200\",le=\"0.005\"} 0");
}

TEST(MetricsText, HistogramsOfOneMetricStandInTheOrderOfTheirLabels) {
    MetricsState state;
    const std::vector<uint64_t> counts(12);
    for (const char* path : {"/metrics", "/health"})
        state.histograms.push_back({Metric::HttpRequestDuration, {"GET", path, "200"}, counts, 1});
    const auto sums = lines_with(metrics_text(state), "mana_ai_http_request_duration_seconds_sum");
    ASSERT_EQ(sums.size(), 2U);
    EXPECT_NE(sums[0].find("path=\"/health\",status=\"200\"} 1"), std::string::npos);
    EXPECT_NE(sums[1].find("path=\"/metrics\""), std::string::npos);
}

TEST(MetricsText, SamplesAreTheLinesOfTheText) {
    MetricsState state;
    state.series.push_back({Metric::ProviderErrors, {"google", "timeout"}, 2});
    state.histograms.push_back({Metric::PlannerRounds, {}, {1, 0, 0, 0, 0, 0}, 1});
    const auto samples = metric_samples(state);
    EXPECT_EQ(samples.size(), lines_with(metrics_text(state), "mana_ai_").size());
    const MetricSample& last = samples.back();
    EXPECT_EQ(last.name, "mana_ai_provider_errors_total");
    ASSERT_EQ(last.labels.size(), 3U);
    EXPECT_EQ(last.labels[0].first, "service");
    EXPECT_EQ(last.labels[1].second, "google");
    EXPECT_EQ(last.labels[2].first, "kind");
    EXPECT_EQ(last.value, 2);
}

TEST(MetricNumber, IsShortAndExact) {
    EXPECT_EQ(metric_number(0), "0");
    EXPECT_EQ(metric_number(100000), "100000");
    EXPECT_EQ(metric_number(9007199254740992.0), "9007199254740992");
    EXPECT_EQ(metric_number(-3), "-3");
    EXPECT_EQ(metric_number(0.1), "0.1");
    EXPECT_EQ(metric_number(1.5e300), "1.5e+300");
    EXPECT_EQ(metric_number(std::numeric_limits<double>::infinity()), "+Inf");
    EXPECT_EQ(metric_number(-std::numeric_limits<double>::infinity()), "-Inf");
    EXPECT_EQ(metric_number(std::nan("")), "NaN");
    for (const double value : {0.1 + 0.2, 1763700000.123456, 1e-7, 2.0 / 3}) {
        EXPECT_EQ(std::stod(metric_number(value)), value);
    }
}

TEST(LabelValue, KeepsWellFormedTextAsItIs) {
    EXPECT_EQ(label_value(""), "");
    EXPECT_EQ(label_value("agent-1 \"x\"\n\\"), "agent-1 \"x\"\n\\");
    EXPECT_EQ(label_value("Köln 🚀"), "Köln 🚀");
}

TEST(LabelValue, ReplacesWhatIsNotUtf8) {
    EXPECT_EQ(label_value("a\xFF\xC3z"), "a\xEF\xBF\xBD\xEF\xBF\xBDz");
    EXPECT_EQ(label_value(std::string_view("a\0b", 3)),
              "a\xEF\xBF\xBD"
              "b");
    EXPECT_EQ(label_value("\xED\xA0\x80"), "\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD");
}

TEST(LabelValue, IsCutBetweenCharacters) {
    EXPECT_EQ(label_value("abcdef", 4), "abcd");
    EXPECT_EQ(label_value("abcä", 4), "abc");
    EXPECT_EQ(label_value("ab🚀x", 5), "ab");
    EXPECT_EQ(label_value("ab\xFFx", 4), "ab");
    EXPECT_EQ(label_value("x", 0), "");
}

}  // namespace
}  // namespace mana_ai::core
