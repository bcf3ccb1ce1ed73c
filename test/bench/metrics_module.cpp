// Loaded into a backend by the benchmark: counts in a loop, with the code of src/pg/metrics.cpp on
// private memory.
#include <chrono>

#include "../../src/pg/shared_locks.hpp"
#include "mana_ai/pg/metrics.hpp"
#include "mana_ai/pg/postgres.hpp"

// Private memory has no lock.
mana_ai::pg::SharedLockScope::SharedLockScope(SharedLock) : lock_(nullptr) {}
mana_ai::pg::SharedLockScope::~SharedLockScope() = default;

namespace {

using mana_ai::core::Metric;
namespace metrics = mana_ai::pg::metrics;

template <class Count>
double nanoseconds_each(int64_t times, Count&& count) {
    const auto start = std::chrono::steady_clock::now();
    for (int64_t i = 0; i < times; i++)
        count(i);
    const std::chrono::duration<double, std::nano> took = std::chrono::steady_clock::now() - start;
    return took.count() / static_cast<double>(times);
}

}  // namespace

extern "C" {

PG_MODULE_MAGIC;

// (kind int, times bigint) returns float8
PG_FUNCTION_INFO_V1(metrics_bench);
PGDLLEXPORT Datum metrics_bench(PG_FUNCTION_ARGS) {
    static char agents[1000][40];
    for (int i = 0; i < 1000; i++)
        snprintf(agents[i], sizeof(agents[i]), "01a7f3c2-5d1e-4b7a-9c11-%012d", i);
    double result = 0;
    const int64_t times = PG_GETARG_INT64(1);
    switch (PG_GETARG_INT32(0)) {
        case 0:
            result = nanoseconds_each(times, [](int64_t) { metrics::count(Metric::Ticks); });
            break;
        case 1:
            result = nanoseconds_each(
                times, [](int64_t) { metrics::count(Metric::TokensUsed, {agents[7]}, 7); });
            break;
        case 2:
            result = nanoseconds_each(times, [](int64_t i) {
                metrics::count(Metric::TokensUsed, {agents[i % 1000]}, 7);
            });
            break;
        case 3:
            result = nanoseconds_each(times, [](int64_t) {
                metrics::count(Metric::ToolCalls, {"create_task", "propose", "deferred"});
            });
            break;
        case 4:
            result = nanoseconds_each(
                times, [](int64_t i) { metrics::observe(Metric::DueLag, 0.001 * (i % 100)); });
            break;
        default:
            result = nanoseconds_each(
                times, [](int64_t) { metrics::count_at_commit(Metric::SnapshotRowsApplied); });
            break;
    }
    PG_RETURN_FLOAT8(result);
}
}
