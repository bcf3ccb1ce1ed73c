// Early ends of runs: because an operator has stopped them, or because the process ends.
#include <algorithm>
#include <chrono>
#include <iterator>

#include "mana_ai/extension/lease/ledger.hpp"
#include "mana_ai/extension/lease/run_record.hpp"
#include "mana_ai/extension/process/engine.hpp"
#include "mana_ai/extension/run/run_span.hpp"
#include "mana_ai/pg/error.hpp"
#include "mana_ai/pg/failpoint.hpp"
#include "mana_ai/pg/log.hpp"
#include "mana_ai/pg/settings.hpp"
#include "mana_ai/pg/time.hpp"
#include "mana_ai/pg/transaction.hpp"

namespace mana_ai {

namespace {

// Time limits for Owed steps: a process that is told to end has two seconds for everything, and one
// that continues has other runs.
constexpr std::chrono::milliseconds kEndKeepTime{500};
constexpr std::chrono::milliseconds kStoppedKeepTime{150};

// Between tries to free missions whose rows somebody has locked; each pause is twice the last one.
constexpr core::Instant kFirstFreePause = 3 * core::kMicrosPerSecond / 10;
constexpr core::Instant kLongestFreePause = 10 * core::kMicrosPerSecond;

// Null: it ended, or failed in a way that does not prevent anything else.
std::exception_ptr interrupt_of(const std::function<void()>& step) {
    try {
        step();
    } catch (const pg::PgError& error) {
        if (error.is_interrupt())
            return std::current_exception();
        pg::log_warning("a run that was to be canceled failed (SQLSTATE " + error.sqlstate_text() +
                        ")");
    } catch (const std::exception&) {
        pg::log_warning("a run that was to be canceled failed");
    }
    return nullptr;
}

}  // namespace

// Receives replies that have just arrived, so that their cost is known. Further requests are not
// sent.
std::exception_ptr Engine::take_in_replies() {
    http_.hold(true);
    // A failing run has ended and does not affect others' replies.
    std::exception_ptr interrupt;
    bool all_had_their_turn = false;
    for (int tries = in_flight() + 1; tries > 0 && !all_had_their_turn && !interrupt; tries--)
        interrupt = interrupt_of([&] {
            loop_.run_ready();
            all_had_their_turn = true;
        });
    return interrupt;
}

void Engine::send_again() {
    http_.hold(false);
}

void Engine::look_at_stops() {
    pg::Transaction transaction("mana_ai: looking for stops");
    Stops stops = read_stops();
    transaction.commit();
    heed_stops(std::move(stops));
}

// Ends runs that have been stopped since the last check.
void Engine::heed_stops(Stops stops) {
    stops_seen_at_ = pg::monotonic_now();
    std::set<std::string, std::less<>> new_tools;
    std::set_difference(stops.tools.begin(), stops.tools.end(), stops_.tools.begin(),
                        stops_.tools.end(), std::inserter(new_tools, new_tools.end()));
    const std::string compactor = pg::settings::compact_model();
    const bool stops_compaction =
        stops.models.contains(compactor) && !stops_.models.contains(compactor);
    tools_stale_ |= stops.tools != stops_.tools;
    if (stops.is_total() != stops_.is_total())
        pg::log_info(stops.is_total() ? "planning was stopped by an operator"
                                      : "planning was resumed by an operator");
    // resume() has done so, but a claim that did not know of it yet may have followed.
    const bool is_resumed = !stops.hold_all_of(stops_);
    std::set<std::string, std::less<>> new_models;
    std::set_difference(stops.models.begin(), stops.models.end(), stops_.models.begin(),
                        stops_.models.end(), std::inserter(new_models, new_models.end()));
    stops_ = std::move(stops);
    if (is_resumed) {
        frees_stopped_ = true;
        resumed_at_ = pg::now();
        free_again_at_ = 0;
        free_pause_ = kFirstFreePause;
    }
    polls_.cancel_stopped();
    // This is still the catalog that runs were offered.
    const auto offers_stopped_tool = [&](const ClaimedMission& claimed) {
        if (new_tools.empty())
            return false;
        const auto offered = catalog_.offer(claimed.agent ? &claimed.agent->policy : nullptr);
        return std::any_of(new_tools.begin(), new_tools.end(),
                           [&](const std::string& tool) { return offered.find(tool) != nullptr; });
    };
    cancel_runs([&](const ClaimedMission& claimed, const RunResult& result) {
        return stops_compaction || new_models.contains(result.events.asked_model) ||
               stops_.concern(claimed.user_id, claimed.mission.agent_id.value_or("")) ||
               offers_stopped_tool(claimed);
    });
    // Somebody may hold their rows for long, and each look reads the whole schedule.
    if (frees_stopped_ && pg::monotonic_now() >= free_again_at_) {
        pg::Transaction transaction("mana_ai: resuming what was stopped");
        const bool are_free = free_stopped_missions(resumed_at_);
        transaction.commit();
        frees_stopped_ = !are_free;
        work_left_ |= are_free;
        free_again_at_ = pg::monotonic_now() + free_pause_;
        free_pause_ = std::min(2 * free_pause_, kLongestFreePause);
    }
}

// The cost of their replies is recorded first; a run whose reply cannot be recorded yet is stopped
// as soon as it is. All other runs continue. At an interrupt all runs end, and abandon_runs() does
// the rest.
void Engine::cancel_runs(
    const std::function<bool(const ClaimedMission&, const RunResult&)>& which) {
    const auto is_one = [&](const auto& run) {
        return !run.second->is_stopped && which(run.second->claimed, run.second->result);
    };
    if (std::none_of(runs_.begin(), runs_.end(), is_one))
        return;
    std::exception_ptr interrupt = take_in_replies();
    const int canceled_before = canceled_;
    if (!interrupt) {
        for (const auto& run : runs_) {
            if (!is_one(run))
                continue;
            run.second->is_stopped = true;
            stopped_++;
        }
        // Their model calls end now.
        cancel_stopped_runs();
        interrupt = interrupt_of([&] {
            const auto is_stopped = [&](const std::string& run_id) {
                const auto run = runs_.find(run_id);
                return run != runs_.end() && run->second->is_stopped;
            };
            jobs_.keep(is_stopped, kStoppedKeepTime);
        });
    }
    if (interrupt) {
        send_again();
        std::rethrow_exception(interrupt);
    }
    cancel_stopped_runs();
    send_again();
    const int canceled = canceled_ - canceled_before;
    pg::log_info("runs canceled because an operator has stopped them: " + std::to_string(canceled) +
                 (stopped_ == 0 ? ""
                                : "; those that wait to record what they have cost: " +
                                      std::to_string(stopped_)));
    give_stopped_leases_back();
}

void Engine::cancel_stopped_runs() {
    for (auto run = runs_.begin(); stopped_ > 0 && run != runs_.end();) {
        ActiveRun& active = *run->second;
        if (!active.is_stopped || jobs_.owes(run->first)) {
            ++run;
            continue;
        }
        loop_.cancel(active.task);
        // The charge that it waited for has brought the user's id back.
        if (stops_.erased.contains(active.claimed.user_id))
            forget_sums();
        else
            note_error("mission " + pg::printable(active.claimed.mission_id) + ": stopped",
                       active.claimed.user_id);
        end_run_span(active.span, active.result);
        gates_.arrived(run->first);
        turns_.ended(active.claimed.user_id);
        run = runs_.erase(run);
        stopped_--;
        canceled_++;
    }
}

void Engine::give_stopped_leases_back() {
    work_left_ = true;
    pg::Transaction transaction("mana_ai: giving leases back");
    abandon_runs_of(number_, {"canceled", "stopped", false, std::nullopt}, pg::now(),
                    own_run_ids());
    MANA_AI_FAILPOINT("stop.before_commit");
    transaction.commit();
    MANA_AI_FAILPOINT("stop.after_commit");
}

// Called before and after each database step, so that their coroutines do not continue after it.
void Engine::end_stopped_runs() {
    if (stopped_ == 0)
        return;
    const int canceled_before = canceled_;
    cancel_stopped_runs();
    if (canceled_ == canceled_before)
        return;
    try {
        give_stopped_leases_back();
    } catch (const pg::PgError& error) {
        // Housekeeping does it.
        if (error.is_interrupt())
            throw;
    }
}

void Engine::abandon_runs(std::optional<core::Instant> not_before) {
    if (!runs_.empty()) {
        // Even after an interrupt, everything that was paid for is tried once.
        if (take_in_replies())
            take_in_replies();
        const auto keep = [this] {
            return interrupt_of(
                [this] { jobs_.keep([](const std::string&) { return true; }, kEndKeepTime); });
        };
        if (keep())
            keep();
    }
    for (const auto& [run_id, run] : runs_)
        loop_.cancel(run->task);
    polls_.cancel();
    loop_.run_ready();
    for (const auto& [run_id, run] : runs_)
        note_error("mission " + pg::printable(run->claimed.mission_id) + ": canceled",
                   run->claimed.user_id);
    for (const auto& [run_id, run] : runs_) {
        end_run_span(run->span, run->result);
        gates_.arrived(run_id);
        turns_.ended(run->claimed.user_id);
    }
    runs_.clear();
    stopped_ = 0;
    send_again();
    pg::Transaction transaction("mana_ai: giving leases back");
    abandon_runs_of(number_, {"canceled", "canceled", false, not_before}, pg::now());
    MANA_AI_FAILPOINT("abandon.before_commit");
    transaction.commit();
    MANA_AI_FAILPOINT("abandon.after_commit");
}

}  // namespace mana_ai
