#include "mana_ai/extension/watch/metrics_state.hpp"

#include <algorithm>
#include <array>
#include <map>
#include <optional>
#include <string_view>

#include "mana_ai/core/text/json.hpp"
#include "mana_ai/core/text/utf8.hpp"
#include "mana_ai/extension/sync/dirty_records.hpp"
#include "mana_ai/pg/crash_watch.hpp"
#include "mana_ai/pg/function_call.hpp"
#include "mana_ai/pg/guard.hpp"
#include "mana_ai/pg/metrics.hpp"
#include "mana_ai/pg/process_usage.hpp"
#include "mana_ai/pg/shared_state.hpp"
#include "mana_ai/pg/spi.hpp"
#include "mana_ai/pg/text.hpp"
#include "mana_ai/pg/time.hpp"

extern "C" {
#include "commands/dbcommands.h"
#include "mb/pg_wchar.h"
#include "utils/jsonb.h"
}

namespace mana_ai {

namespace {

using core::Metric;

constexpr char kNotPreloaded[] =
    "# mana_ai is not in shared_preload_libraries: these counters are those of this process only\n";

void set_gauge(core::MetricsState& state, Metric metric, double value) {
    const auto found =
        std::find_if(state.series.begin(), state.series.end(),
                     [metric](const core::MetricSeries& s) { return s.metric == metric; });
    if (found != state.series.end())
        found->value = value;
}

// From the tables of this database, and for other databases from their workers' reports.
void add_state_of_missions(const std::vector<pg::shared_state::WorkerView>& workers,
                           core::MetricsState& state) {
    static pg::Statement select_running(R"sql(
SELECT count(*) FROM mana_ai.runs WHERE outcome = 'running')sql");
    int64_t in_flight = select_running.execute({}, true).rows.front().number(0);
    int64_t dirty_records = count_dirty_records();
    for (const pg::shared_state::WorkerView& worker : workers) {
        if (worker.database == MyDatabaseId)
            continue;
        in_flight += worker.in_flight;
        dirty_records += worker.dirty_records;
    }
    set_gauge(state, Metric::MissionsInFlight, static_cast<double>(in_flight));
    set_gauge(state, Metric::DatabasesInSafeMode,
              static_cast<double>(pg::crash_watch::databases_in_safe_mode()));
    set_gauge(state, Metric::DirtyRecords, static_cast<double>(dirty_records));
}

std::string database_name(Oid database) {
    const char* found = pg::guarded([database] { return get_database_name(database); });
    return found != nullptr ? core::repair_utf8(found) : std::to_string(database);
}

void add_process(int pid, Oid database, core::Instant since, core::MetricsState& state) {
    const auto usage = pg::process_usage(pid);
    if (!usage)
        return;
    const std::string name = database_name(database);
    auto add = [&](Metric metric, double value) {
        state.series.push_back({metric, {name}, value});
    };
    add(Metric::ProcessCpu, usage->cpu_seconds);
    add(Metric::ProcessMaxFds, static_cast<double>(usage->max_fds));
    add(Metric::ProcessOpenFds, static_cast<double>(usage->open_fds));
    add(Metric::ProcessResidentMemory, static_cast<double>(usage->resident_bytes));
    add(Metric::ProcessStartTime,
        static_cast<double>(since) / static_cast<double>(core::kMicrosPerSecond));
}

// For several models, the sum, and the worst state.
void add_services(Oid database, core::MetricsState& state) {
    struct Sum {
        int limit = 0;
        int in_flight = 0;
        int waiting = 0;
        size_t worst = 0;
    };
    constexpr std::array<std::string_view, 4> kStates = {"open", "limited", "unavailable",
                                                         "key_refused"};
    std::map<std::string, Sum> sums;
    for (const pg::shared_state::ServiceView& view : pg::shared_state::services_of(database)) {
        Sum& sum = sums[view.service];
        sum.limit += view.limit;
        sum.in_flight += view.in_flight;
        sum.waiting += view.waiting;
        const auto found = std::find(kStates.begin(), kStates.end(), view.state);
        sum.worst = std::max(sum.worst, static_cast<size_t>(found - kStates.begin()) % 4);
    }
    const std::string name = database_name(database);
    for (const auto& [service, sum] : sums) {
        state.series.push_back(
            {Metric::ServiceCallLimit, {name, service}, static_cast<double>(sum.limit)});
        state.series.push_back(
            {Metric::ServiceCallsInFlight, {name, service}, static_cast<double>(sum.in_flight)});
        state.series.push_back(
            {Metric::ServiceCallsWaiting, {name, service}, static_cast<double>(sum.waiting)});
        for (size_t i = 0; i < kStates.size(); i++)
            state.series.push_back({Metric::ServiceState,
                                    {name, service, std::string(kStates[i])},
                                    i == sum.worst ? 1.0 : 0.0});
    }
}

// Texts are UTF-8. Other encodings may lack a character, and one label must not make everything
// fail.
std::string in_database_encoding(std::string text) {
    if (GetDatabaseEncoding() != PG_UTF8)
        for (char& c : text)
            if (static_cast<signed char>(c) < 0)
                c = '?';
    return text;
}

std::string labels_json(const core::MetricSample& sample) {
    core::Json labels = core::Json::object();
    for (const auto& [name, value] : sample.labels)
        labels[std::string(name)] = value;
    return in_database_encoding(core::dump_json(labels));
}

}  // namespace

core::MetricsState collect_metrics() {
    core::MetricsState state = pg::metrics::read();
    const auto workers = pg::shared_state::workers();
    add_state_of_missions(workers, state);
    if (!pg::metrics::shared())
        add_process(MyProcPid, MyDatabaseId, pg::instant_from_timestamptz(MyStartTimestamp), state);
    for (const pg::shared_state::WorkerView& worker : workers) {
        add_process(worker.pid, worker.database, worker.since, state);
        add_services(worker.database, state);
    }
    return state;
}

std::string metrics_exposition() {
    const std::string text = in_database_encoding(core::metrics_text(collect_metrics()));
    return pg::metrics::shared() ? text : kNotPreloaded + text;
}

}  // namespace mana_ai

extern "C" {

PG_FUNCTION_INFO_V1(mana_ai_metrics_text);
PGDLLEXPORT Datum mana_ai_metrics_text(PG_FUNCTION_ARGS) {
    using namespace mana_ai;
    (void)fcinfo;
    return pg::entry_point([] {
        const std::string text = metrics_exposition();
        return pg::guarded([&text] { return pg::text_datum(text); });
    });
}

PG_FUNCTION_INFO_V1(mana_ai_metric_samples);
PGDLLEXPORT Datum mana_ai_metric_samples(PG_FUNCTION_ARGS) {
    using namespace mana_ai;
    return pg::entry_point([fcinfo] {
        const pg::RowSet rows = pg::guarded([fcinfo] { return pg::begin_row_set(fcinfo); });
        for (const core::MetricSample& sample : core::metric_samples(collect_metrics())) {
            const std::string labels = labels_json(sample);
            pg::guarded([&] {
                Datum values[3] = {
                    CStringGetTextDatum(sample.name.c_str()),
                    DirectFunctionCall1(jsonb_in, CStringGetDatum(labels.c_str())),
                    Float8GetDatum(sample.value),
                };
                bool nulls[3] = {};
                rows.add(values, nulls);
            });
        }
        return Datum{0};
    });
}

}  // extern "C"
