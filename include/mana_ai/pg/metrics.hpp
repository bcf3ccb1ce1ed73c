// Counting, from every process of the extension (docs/contract/interface.md, Metrics).
//
// With preloading the numbers are in shared memory: exact under concurrent writers, kept until the
// server restarts. Otherwise each process has its own, and shared() says so.
//
// These functions do not raise, allocate, or wait for more than a few instructions of another
// process; they may be called in transaction callbacks. Label values may be any bytes: they are
// repaired and cut. A metric whose label values come from users has at most core::kMaxOpenSeries
// series; further values count under "other".
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string_view>

#include "mana_ai/core/watch/metric_catalog.hpp"
#include "mana_ai/core/watch/metrics_text.hpp"

namespace mana_ai::pg::metrics {

// As many values as the metric has labels, in the catalog's order.
using LabelValues = std::initializer_list<std::string_view>;

// Longest label value in bytes; several labels share twice as much between them.
constexpr size_t kMaxLabelBytes = 96;

void count(core::Metric metric, LabelValues labels = {}, uint64_t by = 1) noexcept;

// Counts when the current transaction commits, and not at all when it, or the subtransaction that
// is current now, is rolled back. Outside of a transaction the same as count().
void count_at_commit(core::Metric metric, LabelValues labels = {}, uint64_t by = 1) noexcept;

// Of a histogram. Negative values count as 0.
void observe(core::Metric metric, double value, LabelValues labels = {}) noexcept;

// Of a gauge without labels. raise_gauge() only if the value is larger than the present one; not
// for negative values.
void set_gauge(core::Metric metric, double value) noexcept;
void raise_gauge(core::Metric metric, double value) noexcept;

// Counts of this value of the label, a name that users choose, are moved to "other", and the value
// is removed from memory (docs/erasure.md). The next count may add it again.
void erase_label_value(std::string_view label, std::string_view value) noexcept;

// A counter without labels as it is now.
uint64_t counter(core::Metric metric) noexcept;

// Everything that was counted. Gauges that nobody has set read 0.
core::MetricsState read();

// Whether the numbers are those of all processes.
bool shared() noexcept;

// For shared_state: the size of the memory to request, and its address. `is_new`: it is not
// initialized yet.
size_t shared_memory_size() noexcept;
void use_shared_memory(void* memory, bool is_new) noexcept;

}  // namespace mana_ai::pg::metrics
