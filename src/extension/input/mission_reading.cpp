#include "mana_ai/extension/input/mission_reading.hpp"

#include <algorithm>
#include <exception>
#include <utility>

#include "mana_ai/core/record/mission_input.hpp"
#include "mana_ai/core/text/wipe.hpp"
#include "mana_ai/extension/input/custom_resolver.hpp"
#include "mana_ai/extension/input/decrypt_audit.hpp"
#include "mana_ai/extension/input/decryption.hpp"
#include "mana_ai/extension/input/grant_key.hpp"
#include "mana_ai/extension/input/input_records.hpp"
#include "mana_ai/extension/input/resolver_patience.hpp"
#include "mana_ai/extension/lease/durable_step.hpp"
#include "mana_ai/extension/lease/watching.hpp"
#include "mana_ai/extension/sync/clock_vector.hpp"
#include "mana_ai/pg/call_watch.hpp"
#include "mana_ai/pg/error.hpp"
#include "mana_ai/pg/failpoint.hpp"
#include "mana_ai/pg/metrics.hpp"
#include "mana_ai/pg/settings.hpp"
#include "mana_ai/pg/subtransaction.hpp"
#include "mana_ai/pg/time.hpp"

namespace mana_ai {

namespace {

// Records per transaction, and its time limit, since transactions must be short.
constexpr size_t kReadBatch = 20;
constexpr core::Instant kReadTime = 15'000;

constexpr char kMissionTable[] = "aiMissions";
constexpr char kNotAllowed[] = "record-not-in-grant-allowlist";
constexpr char kNotOnRecord[] = "audit-not-written";

struct Input {
    core::InputReference reference;
    const core::InputModule* module = nullptr;  // null: a registered resolver, if any
    core::Json record;                          // wiped with the others
    std::optional<core::Instant> clock;         // of the newest field
    RecordClocks clocks;
    std::string version;
    std::optional<core::ResolvedInput> rendered;
    bool was_decrypted = false;
    std::string left_out;  // why; empty = it is used
};

class Reading {
 public:
    Reading(RunServices& services, const ClaimedMission& claimed, ReadMission& read)
        : services_(services),
          claimed_(claimed),
          read_(read),
          secrets_(claimed.mission, claimed.mission_id, services.grant_key.get(), pg::now()),
          resolver_budget_(services.resolver_patience) {
        for (core::InputReference& reference : core::input_references(claimed.mission.inputs)) {
            Input input;
            input.module = core::built_in_module(reference.module);
            input.reference = std::move(reference);
            inputs_.push_back(std::move(input));
        }
    }
    ~Reading() {
        for (Input& input : inputs_)
            wipe(input);
    }
    Reading(const Reading&) = delete;
    Reading& operator=(const Reading&) = delete;

    net::Task<void> run();

 private:
    static void wipe(Input& input);
    void open_mission();
    void read_record(Input& input);
    net::Task<void> fetch();
    net::Task<void> resolve(Input& input);
    bool ask_resolver(Input& input);
    void open_and_render(Input& input);
    net::Task<void> put_on_record();
    core::Json references() const;
    void note_records();
    void count_unusable_grant() const;

    RunServices& services_;
    const ClaimedMission& claimed_;
    ReadMission& read_;
    Decryption secrets_;
    ResolverBudget resolver_budget_;
    std::vector<Input> inputs_;
    std::vector<DecryptRecord> audit_;
};

void Reading::wipe(Input& input) {
    core::wipe(input.record);
    if (input.rendered) {
        core::wipe(input.rendered->title);
        core::wipe(input.rendered->content);
        input.rendered.reset();
    }
}

// All three or none: a mission with only some of its texts must not be planned.
void Reading::open_mission() {
    const core::Mission& mission = claimed_.mission;
    if (!mission.has_ciphertext())
        return;
    core::Mission opened = mission;
    for (std::string* text : {&opened.title, &opened.objective, &opened.concept_markdown}) {
        if (!core::is_ciphertext(*text))
            continue;
        const std::string_view failure = secrets_.open(*text);
        if (failure.empty())
            continue;
        read_.unreadable = failure;
        // If the grant gives no key, no record was tried.
        if (secrets_.failure().empty())
            audit_.push_back(
                {kMissionTable, claimed_.mission_id, DecryptStatus::Failed, std::string(failure)});
        break;
    }
    read_.opened = std::move(opened);
    if (!read_.unreadable.empty()) {
        read_.wipe();
        return;
    }
    read_.objective_was_decrypted = core::is_ciphertext(mission.objective);
    audit_.push_back({kMissionTable, claimed_.mission_id, DecryptStatus::Ok, ""});
}

// A problem of one record must not affect the others.
void Reading::read_record(Input& input) {
    core::wipe(input.record);
    input.clock.reset();
    input.clocks = {};
    input.left_out.clear();
    const core::Instant started = pg::monotonic_now();
    const auto error = pg::in_subtransaction([&] {
        auto found = read_input_record(claimed_.user_id, *input.module, input.reference.table,
                                       input.reference.id);
        if (found) {
            input.record = std::move(found->record);
            input.clocks = std::move(found->clocks);
            if (found->newest_clock != core::kOlderThanEverything)
                input.clock = found->newest_clock;
        }
        return true;
    });
    const core::Instant now = pg::monotonic_now();
    services_.table_patience.note(claimed_.user_id, now - started, now);
    if (error)
        input.left_out = "failed-" + error->sqlstate_text();
}

net::Task<void> Reading::fetch() {
    for (size_t end = 0; end < inputs_.size();) {
        DatabaseJobs::Work work = [this, begin = end, &end] {
            const core::Instant started = pg::now();
            for (end = begin; end < inputs_.size() && end - begin < kReadBatch; end++) {
                if (end > begin && pg::now() - started > kReadTime)
                    break;
                Input& input = inputs_[end];
                if (input.module != nullptr)
                    read_record(input);
            }
        };
        co_await write_until_done(services_, claimed_, std::move(work),
                                  DatabaseJobs::Sharing::Shared,
                                  admit_by_patience(services_, claimed_));
    }
    for (Input& input : inputs_)
        if (input.module == nullptr)
            co_await resolve(input);
}

net::Task<void> Reading::resolve(Input& input) {
    DatabaseJobs::Work work = [this, &input] {
        // Checked when its turn comes: earlier calls may have shown that the module is slow.
        const std::string& module = input.reference.module;
        const core::Instant started = pg::now();
        if (const char* refusal = resolver_budget_.refusal(module, started)) {
            input.rendered.reset();
            input.left_out = refusal;
            return;
        }
        const bool in_time = ask_resolver(input);
        const core::Instant now = pg::now();
        resolver_budget_.spend(module, now - started, !in_time, now);
    };
    // In a separate transaction: locks of other steps must not be held during the function.
    co_await write_until_done(services_, claimed_, std::move(work), DatabaseJobs::Sharing::Alone);
}

// False: the resolver has not answered in time.
bool Reading::ask_resolver(Input& input) {
    input.rendered.reset();
    input.left_out = "no-resolver";
    const auto& [module, table, id] = input.reference;
    const auto resolver = find_resolver(module);
    if (!resolver)
        return true;
    const auto output = call_resolver(*resolver, claimed_.user_id, module, table, id);
    if (const auto* failure = std::get_if<ResolverFailure>(&output)) {
        input.left_out = "resolver-failed";
        count_resolver_failure(module, failure->reason);
        return failure->reason != kResolverTimeout;
    }
    const auto& json = std::get<core::Json>(output);
    input.left_out = json.is_null() ? "missing" : "resolver-failed";
    input.rendered = core::input_from_resolver(input.reference, json);
    if (input.rendered) {
        input.left_out.clear();
        input.version = content_version(json);
    } else if (!json.is_null()) {
        count_resolver_failure(module, "invalid output");
    }
    return true;
}

void Reading::open_and_render(Input& input) {
    if (input.module == nullptr || !input.left_out.empty())
        return;
    if (input.record.is_null()) {
        input.left_out = "missing";
        return;
    }
    const auto& [module, table, id] = input.reference;
    if (pg::settings::skip_unchanged() || may_be_watching(claimed_))
        input.version = content_version(input.record);
    if (input.module->may_be_encrypted) {
        const auto ciphertexts = core::ciphertexts_in(input.record, *input.module);
        // Only a record that needs a key can be outside of the grant.
        const crypto::Grant* grant = secrets_.grant();
        if (!ciphertexts.empty() && grant != nullptr && !grant->allows(table, id)) {
            input.left_out = kNotAllowed;
            audit_.push_back({table, id, DecryptStatus::ScopeViolation, kNotAllowed});
            core::wipe(input.record);
            return;
        }
        for (std::string* text : ciphertexts) {
            const std::string_view failure = secrets_.open(*text);
            if (failure.empty()) {
                input.was_decrypted = true;
                continue;
            }
            input.left_out = failure;
            if (secrets_.failure().empty())
                audit_.push_back({table, id, DecryptStatus::Failed, input.left_out});
            core::wipe(input.record);
            return;
        }
        if (input.was_decrypted)
            audit_.push_back({table, id, DecryptStatus::Ok, ""});
    }
    input.rendered = core::render_input(input.reference, *input.module, input.record);
    core::wipe(input.record);
}

core::Json Reading::references() const {
    core::Json list = core::Json::array();
    for (const Input& input : inputs_) {
        core::Json entry = {{"module", input.reference.module},
                            {"table", input.reference.table},
                            {"id", input.reference.id},
                            {"used", input.left_out.empty()}};
        entry["clock"] = input.clock ? core::Json(core::to_iso_millis(*input.clock)) : core::Json();
        if (!input.left_out.empty())
            entry["reason"] = input.left_out;
        list.push_back(std::move(entry));
    }
    return list;
}

void Reading::note_records() {
    // A run keeps them in memory until its end, and there may be thousands of runs.
    constexpr size_t kMaxClocks = 128 * 1024;  // hexadecimal digits
    size_t size = 0;
    const auto keep = [&size](std::string& clocks) {
        size += clocks.size();
        if (size > kMaxClocks)
            clocks = digest_of_clocks(clocks);
    };
    for (Input& input : inputs_) {
        const auto& [module, table, id] = input.reference;
        keep(input.clocks.own);
        keep(input.clocks.linked);
        read_.records.push_back({.role = "input",
                                 .module = module,
                                 .table = table,
                                 .id = id,
                                 .clocks = std::move(input.clocks.own),
                                 .was_encrypted = input.was_decrypted,
                                 .left_out = input.left_out});
        if (!input.clocks.linked_id.empty())
            read_.records.push_back({.role = "linked",
                                     .module = module,
                                     .table = std::move(input.clocks.linked_table),
                                     .id = std::move(input.clocks.linked_id),
                                     .clocks = std::move(input.clocks.linked),
                                     .was_encrypted = false,
                                     .left_out = input.clocks.linked_was_read ? "" : "unreadable"});
    }
}

// Once per run, if it needed the grant.
void Reading::count_unusable_grant() const {
    const std::string_view reason = secrets_.failure();
    const bool needed = read_.unreadable == reason ||
                        std::any_of(inputs_.begin(), inputs_.end(), [reason](const Input& input) {
                            return input.left_out == reason;
                        });
    if (!reason.empty() && needed)
        pg::metrics::count(core::Metric::GrantSkips, {reason});
}

// In a separate transaction, before anything that was opened is used.
net::Task<void> Reading::put_on_record() {
    if (audit_.empty() && inputs_.empty())
        co_return;
    std::exception_ptr failure;
    if (!audit_.empty()) {
        DatabaseJobs::Work write = [this] {
            record_decrypts(claimed_, audit_);
            MANA_AI_FAILPOINT("audit.recorded");
        };
        try {
            co_await write_until_done(services_, claimed_, std::move(write));
            MANA_AI_FAILPOINT("audit.committed");
        } catch (const pg::PgError& error) {
            if (error.is_interrupt())
                throw;
            failure = std::current_exception();
        }
    }
    if (failure) {
        if (read_.opened)
            std::rethrow_exception(failure);
        for (Input& input : inputs_) {
            if (!input.was_decrypted)
                continue;
            wipe(input);
            input.left_out = kNotOnRecord;
        }
    }
    if (inputs_.empty())
        co_return;
    const core::Json used = references();
    DatabaseJobs::Work write = [this, &used] {
        record_inputs(claimed_, used);
        MANA_AI_FAILPOINT("inputs.recorded");
    };
    co_await write_until_done(services_, claimed_, std::move(write));
}

net::Task<void> Reading::run() {
    open_mission();
    if (read_.unreadable.empty()) {
        co_await fetch();
        MANA_AI_FAILPOINT("run.fetched");
        for (Input& input : inputs_)
            open_and_render(input);
    } else {
        inputs_.clear();
    }
    count_unusable_grant();
    secrets_.wipe();
    MANA_AI_FAILPOINT("run.opened");
    co_await put_on_record();
    read_.anything_was_decrypted = secrets_.opened_any();
    note_records();
    for (Input& input : inputs_) {
        if (!input.left_out.empty())
            continue;
        read_.inputs.push_back(std::move(*input.rendered));
        input.rendered.reset();
        read_.versions.push_back({input.reference, input.version});
    }
}

}  // namespace

void ReadMission::wipe() noexcept {
    if (opened)
        for (std::string* text : {&opened->title, &opened->objective, &opened->concept_markdown})
            core::wipe(*text);
    opened.reset();
    for (core::ResolvedInput& input : inputs) {
        core::wipe(input.title);
        core::wipe(input.content);
    }
    inputs.clear();
}

net::Task<void> read_mission(RunServices& services, const ClaimedMission& claimed,
                             ReadMission& read) {
    // Missions without inputs and without ciphertext, which are most, need nothing of this.
    if (!claimed.mission.has_ciphertext() && claimed.mission.inputs.empty())
        co_return;
    Reading reading(services, claimed, read);
    net::Task<void> work = reading.run();
    co_await std::move(work);
}

}  // namespace mana_ai
