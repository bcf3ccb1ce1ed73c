#include "mana_ai/pg/metrics.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <iterator>

#include "mana_ai/pg/guard.hpp"
#include "mana_ai/pg/postgres.hpp"
#include "shared_locks.hpp"

extern "C" {
#include "access/xact.h"
#include "port/atomics.h"
}

namespace mana_ai::pg::metrics {

namespace {

using core::Metric;
using core::MetricInfo;

constexpr size_t kKeyBytes = 2 * kMaxLabelBytes;
// A power of two, and enough more than kMaxSeries that searches are short.
constexpr size_t kSlots = 8192;
// Above this number of series of open labels in total, new ones count under "other" at once; the
// rest is for fixed labels and for "other".
constexpr size_t kMaxOpenSeriesOfAll = 5000;
constexpr size_t kMaxSeries = 6000;
constexpr double kMicros = 1e6;

// The key of a series: the metric and its label values, one after the other.
struct Key {
    Metric metric;
    uint8_t lengths[core::kMaxLabels];
    char text[kKeyBytes];
};
static_assert(kMaxLabelBytes <= UINT8_MAX);

// Once it is ready, only the value of a series changes; it is never removed. An erased label value
// is zeros, which no search finds. A search reads one cache line, unless labels are long.
struct alignas(64) Series {
    pg_atomic_uint32 ready;
    uint32_t hash;
    pg_atomic_uint64 value;
    Key key;
};

// The sum is in millionths: sums of integers do not depend on the order.
struct Histogram {
    pg_atomic_uint64 counts[core::kMaxBuckets + 1];
    pg_atomic_uint64 sum_micros;
};

// Of a histogram that has labels. Their values are few: routes, methods and the like.
struct LabelledHistogram {
    pg_atomic_uint32 ready;  // as in Series
    Key key;
    Histogram histogram;
};
constexpr size_t kMaxLabelledHistograms = 256;
// Above this number, label values of an open label count under "other".
constexpr size_t kMaxOwnHistograms = 200;

struct Registry {
    // Changed with SharedLock::MetricSeries held, as series are made.
    uint32_t series_of[core::kMetricCount];
    uint32_t all_series;
    uint32_t all_open_series;
    pg_atomic_uint32 full[core::kMetricCount];   // set: new label values count under "other"
    pg_atomic_uint64 plain[core::kMetricCount];  // without labels; of gauges a double's bits
    Histogram histograms[core::kMetricCount];
    LabelledHistogram labelled_histograms[kMaxLabelledHistograms];
    pg_atomic_uint64 lost;  // counts for which there is no room at all
    Series series[kSlots];
};

Registry private_registry;
Registry* registry = nullptr;
bool is_shared = false;

void initialize_histogram(Histogram& histogram) {
    pg_atomic_init_u64(&histogram.sum_micros, 0);
    for (pg_atomic_uint64& count : histogram.counts)
        pg_atomic_init_u64(&count, 0);
}

void initialize(Registry& fresh) {
    pg_atomic_init_u64(&fresh.lost, 0);
    for (size_t i = 0; i < core::kMetricCount; i++) {
        pg_atomic_init_u32(&fresh.full[i], 0);
        pg_atomic_init_u64(&fresh.plain[i], 0);
        initialize_histogram(fresh.histograms[i]);
    }
}

// A slot's atomics are initialized with its series, so that unused private memory stays untouched.
// All-zero memory means "not ready".
Registry& current() {
    if (registry == nullptr) {
        initialize(private_registry);
        registry = &private_registry;
    }
    return *registry;
}

size_t index_of(Metric metric) {
    return static_cast<size_t>(metric);
}

// ---------------------------------------------------------------- series

enum class OpenValues { AsGiven, Other };

// The label values of a key, or those of a caller.
struct Values {
    Metric metric;
    std::string_view labels[core::kMaxLabels];
};

Values given_values(const MetricInfo& info, LabelValues labels) {
    Values values{info.metric, {}};
    std::copy_n(labels.begin(), std::min(labels.size(), info.label_count), values.labels);
    return values;
}

Values values_of(const Key& key) {
    Values values{key.metric, {}};
    const char* text = key.text;
    for (size_t i = 0; i < core::kMaxLabels; i++) {
        values.labels[i] = {text, key.lengths[i]};
        text += key.lengths[i];
    }
    return values;
}

void make_key(const MetricInfo& info, const Values& values, OpenValues open, Key& key) {
    key.metric = info.metric;
    std::fill_n(key.lengths, core::kMaxLabels, uint8_t{0});
    const size_t room = std::min(kMaxLabelBytes, kKeyBytes / info.label_count);
    char* out = key.text;
    for (size_t i = 0; i < info.label_count; i++) {
        const bool other =
            open == OpenValues::Other && info.labels[i].kind == core::LabelKind::Open;
        key.lengths[i] = static_cast<uint8_t>(
            core::write_label_value(other ? core::kOtherLabelValue : values.labels[i], out, room));
        out += key.lengths[i];
    }
}

uint64_t load(const char* bytes) {
    uint64_t chunk;
    memcpy(&chunk, bytes, sizeof(chunk));
    return chunk;
}

uint64_t load_few(std::string_view bytes) {
    uint64_t chunk = 0;
    for (const char byte : bytes)
        chunk = chunk << 8 | static_cast<unsigned char>(byte);
    return chunk;
}

uint32_t hash_of(const Values& values) {
    constexpr uint64_t kMix = 0x9E3779B97F4A7C15;
    constexpr size_t kChunk = sizeof(uint64_t);
    uint64_t hash = (index_of(values.metric) + 1) * kMix;
    auto mix = [&hash](uint64_t chunk) {
        hash = (hash ^ chunk) * kMix;
        hash ^= hash >> 32;
    };
    for (const std::string_view label : values.labels) {
        hash += label.size();
        if (label.size() < kChunk) {
            mix(load_few(label));
            continue;
        }
        for (size_t at = 0; at + kChunk < label.size(); at += kChunk)
            mix(load(label.data() + at));
        mix(load(label.data() + label.size() - kChunk));
    }
    return static_cast<uint32_t>(hash);
}

bool is_key_of(const Key& key, const Values& values) {
    if (key.metric != values.metric)
        return false;
    const char* text = key.text;
    for (size_t i = 0; i < core::kMaxLabels; i++) {
        const std::string_view label = values.labels[i];
        if (label != std::string_view(text, key.lengths[i]))
            return false;
        text += label.size();
    }
    return true;
}

// The series of these values, or the free slot for it, which always exists because of kMaxSeries.
Series* find(Registry& all, const Values& values, uint32_t hash) {
    for (size_t i = hash % kSlots;; i = (i + 1) % kSlots) {
        Series& slot = all.series[i];
        if (pg_atomic_read_u32(&slot.ready) == 0)
            return &slot;
        pg_read_barrier();
        if (slot.hash == hash && is_key_of(slot.key, values))
            return &slot;
    }
}

bool is_ready(Series* slot) {
    return pg_atomic_read_u32(&slot->ready) != 0;
}

bool was_erased(const Values& values) {
    return std::any_of(std::begin(values.labels), std::end(values.labels),
                       [](std::string_view label) { return label.starts_with('\0'); });
}

// Creates the series of this key in its slot; null if the metric, or the table, has no room for
// another one. The caller holds the lock.
Series* make_series(Registry& all, Series* slot, const MetricInfo& info, const Key& key,
                    uint32_t hash, bool counts_as_open) {
    const size_t metric = index_of(info.metric);
    if (counts_as_open && (all.series_of[metric] >= core::kMaxOpenSeries ||
                           all.all_open_series >= kMaxOpenSeriesOfAll)) {
        pg_atomic_write_u32(&all.full[metric], 1);
        return nullptr;
    }
    if (all.all_series >= kMaxSeries)
        return nullptr;
    slot->hash = hash;
    slot->key = key;
    pg_atomic_init_u64(&slot->value, 0);
    pg_write_barrier();
    pg_atomic_write_u32(&slot->ready, 1);
    all.all_series++;
    all.series_of[metric] += counts_as_open ? 1 : 0;
    all.all_open_series += counts_as_open ? 1 : 0;
    return slot;
}

// Searches without the lock. A slot never becomes unready: if the first free one is still free
// under the lock, nobody has created this series since.
Series* find_or_make(Registry& all, const MetricInfo& info, const Key& key, uint32_t hash,
                     bool has_own_values) {
    const bool counts_as_open = has_own_values && info.has_open_label();
    for (;;) {
        Series* slot = find(all, values_of(key), hash);
        if (is_ready(slot))
            return slot;
        const SharedLockScope lock(SharedLock::MetricSeries);
        if (!is_ready(slot))
            return make_series(all, slot, info, key, hash, counts_as_open);
    }
}

Series* series_of(Registry& all, const MetricInfo& info, const Values& given, OpenValues open) {
    Key key;
    make_key(info, given, open, key);
    const uint32_t hash = hash_of(values_of(key));
    Series* slot = find(all, values_of(key), hash);
    if (is_ready(slot))
        return slot;
    const bool own = open == OpenValues::AsGiven;
    if (own && pg_atomic_read_u32(&all.full[index_of(info.metric)]) != 0)
        return nullptr;
    return find_or_make(all, info, key, hash, own);
}

// Where the number of a counter is kept.
pg_atomic_uint64* cell_of(Metric metric, LabelValues labels) {
    Registry& all = current();
    const MetricInfo& info = core::describe(metric);
    if (info.label_count == 0)
        return &all.plain[index_of(metric)];
    // Values that equal those of a series need neither repair nor cut, so nothing is copied.
    const Values given = given_values(info, labels);
    Series* series = find(all, given, hash_of(given));
    if (!is_ready(series))
        series = series_of(all, info, given, OpenValues::AsGiven);
    if (series == nullptr)
        series = series_of(all, info, given, OpenValues::Other);
    return series != nullptr ? &series->value : &all.lost;
}

// The histogram of this key among the first `limit`; made in the first free place if there is none.
Histogram* find_or_make_histogram(Registry& all, const Key& key, size_t limit) {
    const Values values = values_of(key);
    for (size_t i = 0; i < limit; i++) {
        LabelledHistogram& place = all.labelled_histograms[i];
        if (pg_atomic_read_u32(&place.ready) == 0) {
            const SharedLockScope lock(SharedLock::MetricSeries);
            if (pg_atomic_read_u32(&place.ready) == 0) {
                place.key = key;
                initialize_histogram(place.histogram);
                pg_write_barrier();
                pg_atomic_write_u32(&place.ready, 1);
                return &place.histogram;
            }
        }
        pg_read_barrier();
        if (is_key_of(place.key, values))
            return &place.histogram;
    }
    return nullptr;
}

// Null when there is no room for it.
Histogram* histogram_of(Metric metric, LabelValues labels) {
    Registry& all = current();
    const MetricInfo& info = core::describe(metric);
    if (info.label_count == 0)
        return &all.histograms[index_of(metric)];
    Key key;
    const Values given = given_values(info, labels);
    make_key(info, given, OpenValues::AsGiven, key);
    if (Histogram* histogram = find_or_make_histogram(all, key, kMaxOwnHistograms))
        return histogram;
    make_key(info, given, OpenValues::Other, key);
    return find_or_make_histogram(all, key, kMaxLabelledHistograms);
}

core::MetricHistogram copy_of(const MetricInfo& info, Histogram& histogram) {
    core::MetricHistogram copy{info.metric, {}, {}, 0};
    for (size_t i = 0; i <= info.bucket_count; i++)
        copy.counts.push_back(pg_atomic_read_u64(&histogram.counts[i]));
    copy.sum = static_cast<double>(pg_atomic_read_u64(&histogram.sum_micros)) / kMicros;
    return copy;
}

// ---------------------------------------------------------------- counting at commit

struct Pending {
    pg_atomic_uint64* cell;
    int nest_level;
    uint64_t amount;
};

// The different counters of one transaction; further ones are counted at once.
constexpr size_t kMaxPending = 256;
Pending pending[kMaxPending];
size_t pending_count = 0;

void add_pending(pg_atomic_uint64* cell, int nest_level, uint64_t amount) {
    for (size_t i = pending_count; i > 0 && pending[i - 1].nest_level >= nest_level; i--) {
        if (pending[i - 1].cell == cell && pending[i - 1].nest_level == nest_level) {
            pending[i - 1].amount += amount;
            return;
        }
    }
    if (pending_count == kMaxPending)
        pg_atomic_fetch_add_u64(cell, static_cast<int64>(amount));
    else
        pending[pending_count++] = {cell, nest_level, amount};
}

extern "C" {
static void on_transaction_end(XactEvent event, void*) {
    switch (event) {
        case XACT_EVENT_COMMIT:
        case XACT_EVENT_PARALLEL_COMMIT:
        case XACT_EVENT_PREPARE:  // its end is not reported to us; most are committed
            for (size_t i = 0; i < pending_count; i++)
                pg_atomic_fetch_add_u64(pending[i].cell, static_cast<int64>(pending[i].amount));
            pending_count = 0;
            break;
        case XACT_EVENT_ABORT:
        case XACT_EVENT_PARALLEL_ABORT:
            pending_count = 0;
            break;
        default:
            break;
    }
}

// Entries of deeper levels come after those of outer ones.
static void on_subtransaction_end(SubXactEvent event, SubTransactionId, SubTransactionId, void*) {
    if (pending_count == 0 ||
        (event != SUBXACT_EVENT_COMMIT_SUB && event != SUBXACT_EVENT_ABORT_SUB))
        return;
    const int level = GetCurrentTransactionNestLevel();
    size_t first = pending_count;
    while (first > 0 && pending[first - 1].nest_level >= level)
        first--;
    const size_t end = pending_count;
    pending_count = first;
    if (event == SUBXACT_EVENT_COMMIT_SUB)
        for (size_t i = first; i < end; i++)
            add_pending(pending[i].cell, level - 1, pending[i].amount);
}
}

bool register_callbacks() noexcept {
    static bool registered = false;
    if (registered)
        return true;
    try {
        guarded([] {
            RegisterXactCallback(on_transaction_end, nullptr);
            RegisterSubXactCallback(on_subtransaction_end, nullptr);
        });
        registered = true;
    } catch (const std::exception&) {
        // Without memory for it, count now instead of at the commit.
    }
    return registered;
}

}  // namespace

void count(Metric metric, LabelValues labels, uint64_t by) noexcept {
    pg_atomic_fetch_add_u64(cell_of(metric, labels), static_cast<int64>(by));
}

void count_at_commit(Metric metric, LabelValues labels, uint64_t by) noexcept {
    if (by == 0)
        return;
    pg_atomic_uint64* cell = cell_of(metric, labels);
    if (IsTransactionState() && register_callbacks())
        add_pending(cell, GetCurrentTransactionNestLevel(), by);
    else
        pg_atomic_fetch_add_u64(cell, static_cast<int64>(by));
}

void observe(Metric metric, double value, LabelValues labels) noexcept {
    if (std::isnan(value))
        return;
    constexpr double kLargest = 1e12;
    value = std::clamp(value, 0.0, kLargest);
    const auto bounds = core::describe(metric).bounds();
    const auto bucket = std::lower_bound(bounds.begin(), bounds.end(), value) - bounds.begin();
    Histogram* histogram = histogram_of(metric, labels);
    if (histogram == nullptr)
        return;
    pg_atomic_fetch_add_u64(&histogram->sum_micros, std::llround(value * kMicros));
    pg_atomic_fetch_add_u64(&histogram->counts[bucket], 1);
}

void set_gauge(Metric metric, double value) noexcept {
    pg_atomic_write_u64(&current().plain[index_of(metric)], std::bit_cast<uint64_t>(value));
}

// Doubles that are not negative are in the order of their bits.
void raise_gauge(Metric metric, double value) noexcept {
    pg_atomic_uint64* gauge = &current().plain[index_of(metric)];
    const auto bits = std::bit_cast<uint64_t>(std::max(value, 0.0));
    uint64 seen = pg_atomic_read_u64(gauge);
    while (seen < bits && !pg_atomic_compare_exchange_u64(gauge, &seen, bits)) {
    }
}

uint64_t counter(Metric metric) noexcept {
    return pg_atomic_read_u64(&current().plain[index_of(metric)]);
}

core::MetricsState read() {
    Registry& all = current();
    core::MetricsState state;
    for (const MetricInfo& info : core::metric_catalog()) {
        const size_t metric = index_of(info.metric);
        if (info.type == core::MetricType::Histogram) {
            if (info.label_count == 0)
                state.histograms.push_back(copy_of(info, all.histograms[metric]));
        } else if (info.label_count == 0) {
            const uint64_t number = pg_atomic_read_u64(&all.plain[metric]);
            state.series.push_back({info.metric,
                                    {},
                                    info.type == core::MetricType::Gauge
                                        ? std::bit_cast<double>(number)
                                        : static_cast<double>(number)});
        }
    }
    for (LabelledHistogram& place : all.labelled_histograms) {
        if (pg_atomic_read_u32(&place.ready) == 0)
            break;
        pg_read_barrier();
        const Values values = values_of(place.key);
        const MetricInfo& info = core::describe(values.metric);
        core::MetricHistogram copy = copy_of(info, place.histogram);
        for (size_t i = 0; i < info.label_count; i++)
            copy.label_values.emplace_back(values.labels[i]);
        state.histograms.push_back(std::move(copy));
    }
    for (Series& series : all.series) {
        if (!is_ready(&series))
            continue;
        pg_read_barrier();
        const Values values = values_of(series.key);
        if (was_erased(values))
            continue;
        const MetricInfo& info = core::describe(values.metric);
        const auto number = static_cast<double>(pg_atomic_read_u64(&series.value));
        core::MetricSeries copy{values.metric, {}, info.in_millionths ? number / kMicros : number};
        for (size_t i = 0; i < info.label_count; i++)
            copy.label_values.emplace_back(values.labels[i]);
        state.series.push_back(std::move(copy));
    }
    return state;
}

void erase_label_value(std::string_view label, std::string_view value) noexcept {
    Registry& all = current();
    if (value.empty() || value == core::kOtherLabelValue)
        return;
    for (Series& series : all.series) {
        if (!is_ready(&series))
            continue;
        pg_read_barrier();
        const Values values = values_of(series.key);
        const MetricInfo& info = core::describe(values.metric);
        for (size_t i = 0; i < info.label_count; i++) {
            char kept[kMaxLabelBytes];
            const size_t room = std::min(kMaxLabelBytes, kKeyBytes / info.label_count);
            if (info.labels[i].name != label ||
                values.labels[i] !=
                    std::string_view(kept, core::write_label_value(value, kept, room)))
                continue;
            Series* other = series_of(all, info, values, OpenValues::Other);
            pg_atomic_fetch_add_u64(other != nullptr ? &other->value : &all.lost,
                                    static_cast<int64>(pg_atomic_exchange_u64(&series.value, 0)));
            memset(series.key.text + (values.labels[i].data() - series.key.text), 0,
                   values.labels[i].size());
            break;
        }
    }
}

bool shared() noexcept {
    return is_shared;
}

size_t shared_memory_size() noexcept {
    return sizeof(Registry);
}

void use_shared_memory(void* memory, bool is_new) noexcept {
    registry = static_cast<Registry*>(memory);
    is_shared = true;
    if (is_new) {
        memset(memory, 0, sizeof(Registry));
        initialize(*registry);
    }
}

}  // namespace mana_ai::pg::metrics
