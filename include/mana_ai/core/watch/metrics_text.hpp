// The state of all metrics at one moment, and its forms: Prometheus' text format 0.0.4, and rows of
// name, labels, value. docs/contract/interface.md, Metrics.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "mana_ai/core/watch/metric_catalog.hpp"

namespace mana_ai::core {

// One series of a counter or a gauge.
struct MetricSeries {
    Metric metric{};
    std::vector<std::string> label_values;  // as many as the metric has labels
    double value = 0;
};

struct MetricHistogram {
    Metric metric{};
    std::vector<std::string> label_values;  // as many as the metric has labels
    std::vector<std::uint64_t> counts;      // of each bucket alone; the last is above all bounds
    double sum = 0;
};

struct MetricsState {
    std::vector<MetricSeries> series;
    std::vector<MetricHistogram> histograms;
};

// One line of the exposition. A histogram becomes several: NAME_bucket, NAME_sum, NAME_count.
struct MetricSample {
    std::string name;
    std::vector<std::pair<std::string_view, std::string>> labels;  // "service" is the first one
    double value = 0;
};

// All samples, sorted by metric and label values. The views live as long as the program.
std::vector<MetricSample> metric_samples(const MetricsState& state);

// The exposition. Every metric of the catalog has its HELP and TYPE, even without a series.
std::string metrics_text(const MetricsState& state);

// The shortest text that reads back as the same number; "+Inf", "-Inf", "NaN".
std::string metric_number(double value);

// Writes a label's value as valid UTF-8: invalid bytes and U+0000 become U+FFFD; a value that does
// not fit is cut between characters. Returns the bytes written. Allocates nothing.
std::size_t write_label_value(std::string_view value, char* out, std::size_t capacity) noexcept;

}  // namespace mana_ai::core
