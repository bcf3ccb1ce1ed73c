#include "mana_ai/core/watch/metrics_text.hpp"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstring>

#include "mana_ai/core/text/json.hpp"
#include "mana_ai/core/text/utf8.hpp"

namespace mana_ai::core {

namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";  // U+FFFD

// Those of one metric in the order of their label values.
template <class Labelled>
std::vector<const Labelled*> sorted(const std::vector<Labelled>& all) {
    std::vector<const Labelled*> sorted;
    sorted.reserve(all.size());
    for (const Labelled& one : all) {
        sorted.push_back(&one);
    }
    std::sort(sorted.begin(), sorted.end(), [](const Labelled* a, const Labelled* b) {
        return a->metric != b->metric ? a->metric < b->metric : a->label_values < b->label_values;
    });
    return sorted;
}

MetricSample sample_of(const MetricInfo& info, std::string_view suffix,
                       const std::vector<std::string>& label_values, double value) {
    MetricSample sample;
    sample.name.reserve(info.name.size() + suffix.size());
    sample.name.append(info.name).append(suffix);
    sample.labels.reserve(2 + info.label_count);
    sample.labels.emplace_back("service", "mana-ai");
    for (std::size_t i = 0; i < info.label_count; ++i) {
        sample.labels.emplace_back(info.labels[i].name,
                                   i < label_values.size() ? label_values[i] : "");
    }
    sample.value = value;
    return sample;
}

void add_series(const MetricSeries& series, std::vector<MetricSample>& samples) {
    samples.push_back(sample_of(describe(series.metric), "", series.label_values, series.value));
}

// Buckets of the exposition count everything up to their bound.
void add_histogram(const MetricHistogram& histogram, std::vector<MetricSample>& samples) {
    const MetricInfo& info = describe(histogram.metric);
    std::uint64_t count = 0;
    for (std::size_t i = 0; i <= info.bucket_count; ++i) {
        count += i < histogram.counts.size() ? histogram.counts[i] : 0;
        MetricSample sample =
            sample_of(info, "_bucket", histogram.label_values, static_cast<double>(count));
        sample.labels.emplace_back("le",
                                   i < info.bucket_count ? metric_number(info.buckets[i]) : "+Inf");
        samples.push_back(std::move(sample));
    }
    samples.push_back(sample_of(info, "_sum", histogram.label_values, histogram.sum));
    samples.push_back(
        sample_of(info, "_count", histogram.label_values, static_cast<double>(count)));
}

// Calls add(info, samples) for each metric of the catalog in turn.
template <class Add>
void for_each_metric(const MetricsState& state, Add&& add) {
    const std::vector<const MetricSeries*> series = sorted(state.series);
    const std::vector<const MetricHistogram*> histograms = sorted(state.histograms);
    auto next = series.begin();
    auto next_histogram = histograms.begin();
    for (const MetricInfo& info : metric_catalog()) {
        std::vector<MetricSample> samples;
        for (; next != series.end() && (*next)->metric == info.metric; ++next) {
            add_series(**next, samples);
        }
        for (; next_histogram != histograms.end() && (*next_histogram)->metric == info.metric;
             ++next_histogram) {
            add_histogram(**next_histogram, samples);
        }
        add(info, samples);
    }
}

void append_help(std::string_view help, std::string& text) {
    for (const char c : help) {
        if (c == '\\') {
            text += "\\\\";
        } else if (c == '\n') {
            text += "\\n";
        } else {
            text += c;
        }
    }
}

void append_label_value(std::string_view value, std::string& text) {
    for (const char c : value) {
        if (c == '\\') {
            text += "\\\\";
        } else if (c == '\n') {
            text += "\\n";
        } else if (c == '"') {
            text += "\\\"";
        } else {
            text += c;
        }
    }
}

void append_sample(const MetricSample& sample, std::string& text) {
    text += sample.name;
    char separator = '{';
    for (const auto& [name, value] : sample.labels) {
        text += separator;
        text += name;
        text += "=\"";
        append_label_value(value, text);
        text += '"';
        separator = ',';
    }
    text += "} ";
    text += metric_number(sample.value);
    text += '\n';
}

// How many bytes at the start of `text` are ASCII and not NUL.
std::size_t plain_prefix(std::string_view text) noexcept {
    std::size_t length = 0;
    while (length < text.size() && static_cast<signed char>(text[length]) > 0) {
        ++length;
    }
    return length;
}

}  // namespace

std::vector<MetricSample> metric_samples(const MetricsState& state) {
    std::vector<MetricSample> all;
    for_each_metric(state, [&](const MetricInfo&, std::vector<MetricSample>& samples) {
        std::move(samples.begin(), samples.end(), std::back_inserter(all));
    });
    return all;
}

std::string metrics_text(const MetricsState& state) {
    std::string text;
    for_each_metric(state, [&](const MetricInfo& info, const std::vector<MetricSample>& samples) {
        text.append("# HELP ").append(info.name).append(" ");
        append_help(info.help, text);
        text.append("\n# TYPE ").append(info.name).append(" ").append(name(info.type)) += '\n';
        for (const MetricSample& sample : samples) {
            append_sample(sample, text);
        }
    });
    return text;
}

std::string metric_number(double value) {
    constexpr double kExactIntegers = 9007199254740992.0;  // 2^53
    if (std::isnan(value)) {
        return "NaN";
    }
    if (std::isinf(value)) {
        return value > 0 ? "+Inf" : "-Inf";
    }
    char buffer[32];
    // Counters are read by people too: 100000, not 1e+05.
    const std::to_chars_result end =
        std::trunc(value) == value && std::abs(value) <= kExactIntegers
            ? std::to_chars(buffer, buffer + sizeof(buffer), static_cast<std::int64_t>(value))
            : std::to_chars(buffer, buffer + sizeof(buffer), value);
    return {buffer, end.ptr};
}

std::size_t write_label_value(std::string_view value, char* out, std::size_t capacity) noexcept {
    std::size_t written = 0;
    while (!value.empty()) {
        const std::size_t plain = std::min(plain_prefix(value), capacity - written);
        std::memcpy(out + written, value.data(), plain);
        written += plain;
        value.remove_prefix(plain);
        if (value.empty() || written == capacity) {
            break;
        }
        const std::size_t length = value[0] == 0 ? 0 : utf8_sequence_length(value);
        const std::string_view next = length > 0 ? value.substr(0, length) : kReplacement;
        if (written + next.size() > capacity) {
            break;
        }
        std::memcpy(out + written, next.data(), next.size());
        written += next.size();
        value.remove_prefix(length > 0 ? length : 1);
    }
    return written;
}

}  // namespace mana_ai::core
