// The run engine of one process: takes due missions, runs all of them at once on one event loop,
// and never holds a transaction while it waits (docs/architecture.md, "The engine").
//
// The worker and a manual tick drive the same engine; they differ in when they stop.
#pragma once

#include <exception>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "mana_ai/core/planner/tool_catalog.hpp"
#include "mana_ai/extension/input/grant_key.hpp"
#include "mana_ai/extension/input/resolver_patience.hpp"
#include "mana_ai/extension/lease/database_jobs.hpp"
#include "mana_ai/extension/process/http_clients.hpp"
#include "mana_ai/extension/research/research_polls.hpp"
#include "mana_ai/extension/run/claim.hpp"
#include "mana_ai/extension/run/mission_run.hpp"
#include "mana_ai/extension/run/restore_iterations.hpp"
#include "mana_ai/extension/watch/tracing.hpp"
#include "mana_ai/net/event_loop.hpp"
#include "mana_ai/pg/error.hpp"
#include "mana_ai/pg/settings.hpp"

namespace mana_ai {

// What run_tick() returns (docs/contract/interface.md, Functions).
struct TickCounts {
    core::Instant scanned_at = 0;
    int due = 0;
    int produced = 0;      // plans that a model made
    int written_back = 0;  // iterations in sync_changes
    int parse_failures = 0;
    int skipped = 0;
    std::vector<std::string> errors;
    std::vector<std::string> error_users;  // whose mission each of them names; empty = none
};

class Engine {
 public:
    // `by` names the driver in engine_state and in log lines: "worker", "run_tick", "run_mission".
    explicit Engine(std::string by);
    ~Engine();
    Engine(const Engine&) = delete;
    Engine& operator=(const Engine&) = delete;

    // Reads what it needs from settings; called at the start and after a reload.
    void load_settings();

    // A tick is exclusive in its database; false = another one is running. A tick that had nothing
    // to do leaves no trace in the database, unless it began with a full pass.
    bool begin_tick();
    void end_tick();

    // Records what the tick has done so far and continues it, since a busy worker's tick has no
    // end.
    void roll_tick();

    // Drops what the last passes left to do, for a driver that must not start runs now.
    void forget_due_missions();
    bool in_tick() const { return in_tick_; }

    // Work around planning, in separate transactions. `full_pass` is for a full pass, which adds
    // what is not needed after every wake-up: dead engines, retention, new settings, all marks.
    void keep_house(bool full_pass);

    // Claims missions due by `due_until` while there is room and starts their runs; also starts
    // polls of research.
    void start_due_missions(core::Instant due_until);

    // Starts further polls of research that are due by `due_until`, in a tick; cheap if there are
    // none.
    void start_due_polls(core::Instant due_until);

    // Claims and starts one mission whether due or not. Throws as claim_mission() does.
    void start_mission(const std::string& user_id, const std::string& mission_id);

    // Lets the network, timers, coroutines and database steps progress; never blocks for long.
    void run_ready();

    // Ends all runs and polls and releases the leases; missions are due again at `not_before` or at
    // once. Spans are still sent to the collector.
    void abandon_runs(std::optional<core::Instant> not_before);

    // The wall clock was set by this much. Adjusts times that were taken from the old clock.
    void on_clock_jump(core::Instant jump);

    int in_flight() const { return static_cast<int>(runs_.size()); }

    // Whether runs or polls of research are in progress: a tick does not end before.
    bool is_busy() const { return !runs_.empty() || polls_.under_way() > 0; }
    bool has_room();
    // When has_room() may turn true by itself, on the monotonic clock; nullopt = when a run ends.
    std::optional<core::Instant> room_at();
    // Whether due missions wait for a service that is unavailable, or that asks to wait for long.
    bool service_is_away() { return stops_.is_total() || gates_.is_away(); }
    std::string service_problem() {
        return stops_.is_total() ? "planning was stopped by an operator" : gates_.problem();
    }

    // Logs and publishes the state of services from time to time; `shared` = for other processes
    // too.
    void report_services(bool shared) { gates_.report(shared, tracer_.collector()); }

    bool work_left() const { return work_left_; }  // due missions for which there was no room

    // Whether the next pass has work that is not in the schedule.
    bool wants_pass() { return !agents_with_room_.empty() || (work_left_ && has_room()); }
    int poll_fd() const { return loop_.fd(); }

    // Spans are sent in the background; a driver that is about to end sends the queued ones at
    // once, and drives the engine a little longer.
    void begin_trace_drain() { tracer_.begin_drain(); }
    bool traces_drained() const { return tracer_.is_drained(); }

    // Counts the spans that no collector has accepted, including those of open runs. The last call
    // before a process exits without destroying its engine; the destructor does the same.
    void drop_traces();

    // Whether a database step has failed since the last call.
    bool take_database_trouble() { return jobs_.take_trouble(); }

    // Microseconds until run_ready() has something to do; nullopt = only network events.
    std::optional<int64_t> timeout_us() const;

    // The next time in the schedule, by the wall clock; as of the last pass.
    std::optional<core::Instant> next_wake_at() const { return next_wake_at_; }

    // Due rows that open transactions have locked are not tried before, on the monotonic clock.
    core::Instant locked_until() const { return locked_until_; }

    // When research is next to be polled, by the wall clock.
    std::optional<core::Instant> next_poll_at() const { return polls_.next_at(); }

    // When keep_house() has snapshots to repair, on the monotonic clock; nullopt = none are marked.
    std::optional<core::Instant> next_repair_at() const { return next_repair_at_; }

    // When a mission that may have lost a plan is to be checked, by the wall clock.
    std::optional<core::Instant> next_check_at() const { return next_check_at_; }

    // When a changed input makes a mission due, by the wall clock; as of the last pass.
    std::optional<core::Instant> next_input_wake_at() const { return next_input_wake_at_; }

    // For the tick's errors. For a mission: its user.
    void note_error(const std::string& text, const std::string& user_id = {});

    TickCounts& counts() { return counts_; }
    // The result of the run that ended last; for run_mission().
    const std::optional<RunResult>& last_result() const { return last_result_; }
    const std::vector<SkippedMission>& last_skipped() const { return last_skipped_; }

 private:
    struct ActiveRun {
        ClaimedMission claimed;
        RunResult result;
        std::optional<ClaimResult> read;  // of a mission that was claimed unread
        bool waits_for_lock = false;      // likewise: somebody has locked it
        bool is_stopped = false;          // ends as soon as its durable steps are done
        core::Instant started_at = 0;     // on the monotonic clock
        SpanScope span;
        net::EventLoop::TaskId task = 0;
    };

    std::exception_ptr take_in_replies();
    void send_again();
    bool looks_for_stops() const { return is_busy() || frees_stopped_; }
    void look_at_stops();
    void heed_stops(Stops stops);
    void settle_erasures();
    void forget_erased_users();
    void begin_missed_erasures(bool full_pass);
    void delete_expired(bool full_pass);
    void add_up_usage(bool full_pass);
    void cancel_runs(const std::function<bool(const ClaimedMission&, const RunResult&)>& which);
    void cancel_stopped_runs();
    void give_stopped_leases_back();
    void end_stopped_runs();
    std::vector<std::string> own_run_ids() const;
    void repair_snapshots(bool full_pass);
    void repair_marked(bool full_pass);
    void repair_later(bool got_on);
    void prepare_tick(bool full_pass, core::Instant now);
    void take_input_changes();
    void wake_missions();
    void put_off_wakes(const pg::PgError& error);
    void postpone_wakes(core::Instant now);
    void restore_lost_iterations();
    void put_off_checks();
    void check_later_alone(const SuspectMission& mission, core::Instant at);
    void release_tick();
    bool may_claim();
    void pause_for_locked_rows(core::Instant due_until);
    void record_tick();
    int users_to_look_at(int limit) const;
    ClaimRequest claim_request(core::Instant due_until, int limit);
    void recover_own_runs(core::Instant now);
    void load_tools_if_stale();
    void start_claimed(ClaimResult claimed);
    void start_runs(ClaimResult claimed);
    bool reads_suspect() const;
    void on_read_end(const std::string& run_id, std::exception_ptr failure);
    void on_run_end(const std::string& run_id, std::exception_ptr failure);

    std::string by_;
    std::string table_problem_;  // why nothing was claimed at the last check; empty = none
    bool table_is_locked_ = false;
    uint32_t number_;
    net::EventLoop loop_;
    HttpClients http_;
    DatabaseJobs jobs_;
    Tracer tracer_;
    core::ToolCatalog catalog_;
    GrantKey grant_key_;
    ResolverPatience resolver_patience_;
    TablePatience table_patience_;
    ServiceGates gates_;
    Stops stops_;
    core::Instant stops_seen_at_ = 0;  // on the monotonic clock
    bool frees_stopped_ = false;       // missions that were resumed are locked by somebody
    core::Instant resumed_at_ = 0;     // what was held back until then is freed
    core::Instant free_again_at_ = 0;  // on the monotonic clock
    core::Instant free_pause_ = 0;
    int stopped_ = 0;                             // ActiveRun::is_stopped
    int canceled_ = 0;                            // of those, so far
    std::set<std::string, std::less<>> settled_;  // stops_.erased when erasures were last settled
    std::string settled_last_;                    // of them, the one whose turn was last
    core::Instant settled_at_ = 0;                // on the monotonic clock
    std::vector<core::Tool> loaded_tools_;
    RunServices services_;
    ResearchPolls polls_;

    std::unordered_map<std::string, std::unique_ptr<ActiveRun>> runs_;  // by run_id
    std::map<AgentKey, int> started_by_agent_;
    core::FairTurns turns_;
    bool more_than_room_ = true;  // are due, as far as known; then users take turns
    core::Instant last_walk_ = 0;
    std::vector<AgentKey> agents_with_room_;  // a mission of theirs has ended
    bool counts_started_ = false;
    std::string authorization_digest_;  // of the key with which the gates have learned
    core::Instant locked_pause_;
    core::Instant locked_until_ = 0;
    core::Instant tick_started_at_ = 0;  // on the monotonic clock
    bool in_tick_ = false;
    bool tick_is_full_pass_ = false;
    bool work_left_ = false;
    bool suspects_left_ = false;  // ClaimResult::suspects_left of the last claim
    bool tools_stale_ = true;
    bool more_has_expired_ = false;
    bool more_to_add_up_ = false;
    core::Instant added_up_at_ = 0;  // by the monotonic clock
    bool compares_users_ = false;
    // Of mana_ai.begin_missed_erasures(): how far it has come.
    std::optional<std::string> compared_digests_;
    std::optional<std::string> last_compared_user_;
    core::Instant agents_seen_at_ = 0;
    std::optional<core::Instant> next_wake_at_;
    std::optional<core::Instant> next_repair_at_;
    std::optional<core::Instant> next_check_at_;
    std::optional<core::Instant> next_input_wake_at_;
    core::Instant repair_pause_ = 0;
    TickCounts counts_;
    std::optional<RunResult> last_result_;
    std::vector<SkippedMission> last_skipped_;
};

}  // namespace mana_ai
