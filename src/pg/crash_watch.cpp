#include "mana_ai/pg/crash_watch.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstring>

#include "mana_ai/pg/compat.hpp"
#include "mana_ai/pg/guard.hpp"
#include "mana_ai/pg/log.hpp"
#include "mana_ai/pg/settings.hpp"
#include "mana_ai/pg/time.hpp"

extern "C" {
#include "common/file_perm.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/lwlock.h"
#include "utils/timestamp.h"
}

namespace mana_ai::pg::crash_watch {

namespace {

constexpr char kFile[] =
    "mana_ai.crashes";  // in the data directory, the working directory of every process
constexpr char kNewFile[] = "mana_ai.crashes.new";
constexpr int64_t kWindowUs = int64_t{10} * 60 * 1'000'000;
constexpr int kMaxRecords = 32;
constexpr uint32_t kMagic = 0x6d610201;

// Written by its process, read by the postmaster after all others have ended: after a crash it may
// contain anything.
struct Slot {
    volatile int32_t pid;  // 0 = not in the extension's code
    volatile Code code;
    Oid database;
    char activity[56];
    char user_id[64];
    char mission_id[64];
};

struct Record {
    int64_t at;  // TimestampTz
    Oid database;
    Code code;
    int32_t pid;
    int32_t begins_safe_mode;
    char version[16];
    char activity[56];
    char user_id[64];
    char mission_id[64];
};

// The file as it is on disk.
struct Crashes {
    uint32_t magic;
    uint32_t record_size;
    int32_t count;
    int32_t unused;
    Record records[kMaxRecords];
};

struct Shared {
    LWLockPadded lock;
    volatile bool any_safe_mode;
    Crashes crashes;  // under the lock; those of this version
    int slot_count;
    Slot slots[FLEXIBLE_ARRAY_MEMBER];
};

Shared* shared = nullptr;
Slot* volatile own = nullptr;
struct sigaction previous_sigquit;

template <size_t kSize>
void copy(char (&to)[kSize], std::string_view from) noexcept {
    const size_t length = std::min(from.size(), kSize - 1);
    memcpy(to, from.data(), length);
    to[length] = '\0';
}

// Reads memory that a crash may have corrupted.
template <size_t kSize>
void copy_printable(char (&to)[kSize], const char (&from)[kSize]) noexcept {
    size_t i = 0;
    for (; i < kSize - 1 && from[i] != '\0'; i++)
        to[i] = from[i] >= ' ' && from[i] <= '~' ? from[i] : '?';
    to[i] = '\0';
}

bool is_code(Code code) noexcept {
    return code >= Code::Launcher && code <= Code::Mark;
}

bool is_of_this_version(const Record& record) noexcept {
    return strncmp(record.version, MANA_AI_VERSION, sizeof(record.version)) == 0;
}

// Crashes are counted by database; those of a process without one by its kind.
bool belong_together(const Record& record, Oid database, Code code) noexcept {
    return record.database == database && (OidIsValid(database) || record.code == code);
}

// ---------------------------------------------------------------- the file
// Plain system calls: the postmaster does this while it reinitializes its shared memory.

void read_file(Crashes& crashes) noexcept {
    memset(&crashes, 0, sizeof(crashes));
    const int fd = open(kFile, O_RDONLY | O_CLOEXEC);
    ssize_t size = -1;
    if (fd >= 0) {
        size = read(fd, &crashes, sizeof(crashes));
        close(fd);
    }
    if (size != static_cast<ssize_t>(sizeof(crashes)) || crashes.magic != kMagic ||
        crashes.record_size != sizeof(Record) || crashes.count < 0 || crashes.count > kMaxRecords) {
        memset(&crashes, 0, sizeof(crashes));
        crashes.magic = kMagic;
        crashes.record_size = sizeof(Record);
    }
    int kept = 0;
    for (int i = 0; i < crashes.count; i++) {
        Record record = crashes.records[i];
        record.version[sizeof(record.version) - 1] = '\0';
        if (!is_code(record.code) || !is_of_this_version(record))
            continue;
        record.activity[sizeof(record.activity) - 1] = '\0';
        record.user_id[sizeof(record.user_id) - 1] = '\0';
        record.mission_id[sizeof(record.mission_id) - 1] = '\0';
        crashes.records[kept++] = record;
    }
    crashes.count = kept;
}

bool write_file(const Crashes& crashes) noexcept {
    const int fd = open(kNewFile, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, pg_file_create_mode);
    if (fd < 0)
        return false;
    const bool written =
        write(fd, &crashes, sizeof(crashes)) == static_cast<ssize_t>(sizeof(crashes)) &&
        fsync(fd) == 0;
    if (close(fd) != 0 || !written || rename(kNewFile, kFile) != 0)
        return false;
    const int directory = open(".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (directory >= 0) {
        (void)fsync(directory);
        close(directory);
    }
    return true;
}

void remove_record(Crashes& crashes, int i) noexcept {
    memmove(&crashes.records[i], &crashes.records[i + 1],
            sizeof(Record) * static_cast<size_t>(crashes.count - i - 1));
    crashes.count--;
}

Record& append_record(Crashes& crashes) noexcept {
    if (crashes.count == kMaxRecords) {
        int oldest = 0;
        while (oldest < kMaxRecords - 1 && crashes.records[oldest].begins_safe_mode != 0)
            oldest++;
        remove_record(crashes, oldest);
    }
    Record& record = crashes.records[crashes.count++];
    memset(static_cast<void*>(&record), 0, sizeof(record));
    return record;
}

// ---------------------------------------------------------------- the postmaster's part

// True when something was found.
bool record_slots(Crashes& crashes) noexcept {
    const TimestampTz now = GetCurrentTimestamp();
    const int slots = std::min(shared->slot_count, compat::max_processes());
    const int limit = settings::crash_limit();
    bool found = false;
    for (int i = 0; i < slots; i++) {
        const Slot& slot = shared->slots[i];
        const Code code = slot.code;
        if (slot.pid <= 0 || !is_code(code))
            continue;
        int recent = 1;
        bool is_counted = false;
        bool in_safe_mode = false;
        for (int k = 0; k < crashes.count; k++) {
            const Record& record = crashes.records[k];
            if (!belong_together(record, slot.database, code))
                continue;
            // Processes that died together count as one crash.
            is_counted |= record.at == now;
            in_safe_mode |= record.begins_safe_mode != 0;
            recent += record.at - now <= kWindowUs && now - record.at <= kWindowUs ? 1 : 0;
        }
        if (is_counted)
            continue;
        Record& record = append_record(crashes);
        record.at = now;
        record.database = slot.database;
        record.code = code;
        record.pid = slot.pid;
        copy(record.version, MANA_AI_VERSION);
        copy_printable(record.activity, slot.activity);
        copy_printable(record.user_id, slot.user_id);
        copy_printable(record.mission_id, slot.mission_id);
        record.begins_safe_mode = !in_safe_mode && limit > 0 && recent >= limit ? 1 : 0;
        found = true;
    }
    return found;
}

extern "C" {

// Called by the postmaster's shmem_exit(): with 0 at a normal end, with 1 after a crash, whether or
// not it continues afterwards (restart_after_crash).
static void on_postmaster_shmem_exit(int code, Datum) {
    if (code == 0 || IsUnderPostmaster || !IsPostmasterEnvironment || shared == nullptr)
        return;
    static Crashes crashes;
    read_file(crashes);
    if (record_slots(crashes) && !write_file(crashes))
        ereport(LOG, (errmsg("mana_ai: could not write file \"%s\": %m", kFile)));
}

// The postmaster ends this process at once: another process has crashed, or the server stops in
// immediate mode. That is not a crash of this process.
static void on_sigquit(int signal, siginfo_t* info, void* context) {
    Slot* slot = own;
    if (slot != nullptr)
        slot->pid = 0;
    if ((previous_sigquit.sa_flags & SA_SIGINFO) != 0)
        previous_sigquit.sa_sigaction(signal, info, context);
    else if (previous_sigquit.sa_handler != SIG_DFL && previous_sigquit.sa_handler != SIG_IGN)
        previous_sigquit.sa_handler(signal);
    else
        _exit(2);
}

static void on_process_exit(int, Datum) {
    Slot* slot = own;
    own = nullptr;
    if (slot != nullptr)
        slot->pid = 0;
}

}  // extern "C"

// Once per process. False if there is no slot for it.
bool have_slot() {
    if (own != nullptr)
        return true;
    const int number = compat::own_proc_number();
    if (shared == nullptr || !IsUnderPostmaster || number < 0 || number >= shared->slot_count ||
        proc_exit_inprogress)
        return false;
    guarded([] { on_shmem_exit(on_process_exit, 0); });
    Slot* slot = &shared->slots[number];
    slot->pid = 0;
    own = slot;
    struct sigaction action;
    sigaction(SIGQUIT, nullptr, &previous_sigquit);
    action = previous_sigquit;
    action.sa_flags |= SA_SIGINFO;
    action.sa_sigaction = on_sigquit;
    sigaction(SIGQUIT, &action, nullptr);
    return true;
}

// The id in the form of a record.
struct ErasedUser {
    explicit ErasedUser(std::string_view user_id) {
        char cut[sizeof(id)];
        copy(cut, user_id);
        copy_printable(id, cut);
    }
    bool is_in(const Record& record) const {
        return id[0] != '\0' && record.database == MyDatabaseId && strcmp(record.user_id, id) == 0;
    }
    char id[sizeof(Record::user_id)];
};

void publish(const Crashes& crashes) noexcept {
    shared->crashes = crashes;
    bool any = false;
    for (int i = 0; i < crashes.count; i++)
        any |= crashes.records[i].begins_safe_mode != 0;
    shared->any_safe_mode = any;
}

// Applies `change` to the recorded crashes. If it returns true, the result is written to the file
// and published to all processes. Does nothing without shared memory.
template <typename Change>
void change_crashes(Change change) {
    if (shared == nullptr)
        return;
    const bool written = guarded([&change] {
        static Crashes crashes;
        LWLockAcquire(&shared->lock.lock, LW_EXCLUSIVE);
        crashes = shared->crashes;
        const bool done = !change(crashes) || write_file(crashes);
        if (done)
            publish(crashes);
        LWLockRelease(&shared->lock.lock);
        return done;
    });
    if (!written)
        throw make_error(ERRCODE_IO_ERROR, std::string("could not write file \"") + kFile + "\"");
}

std::optional<SafeMode> find_safe_mode(Oid database, Code code) {
    if (shared == nullptr || !shared->any_safe_mode || settings::crash_limit() == 0)
        return std::nullopt;
    Crashes crashes;
    LWLockAcquire(&shared->lock.lock, LW_SHARED);
    crashes = shared->crashes;
    LWLockRelease(&shared->lock.lock);
    SafeMode mode;
    bool found = false;
    for (int i = 0; i < crashes.count; i++) {
        const Record& record = crashes.records[i];
        if (!belong_together(record, database, code))
            continue;
        mode.crashes++;
        mode.last_crash = instant_from_timestamptz(record.at);
        if (record.begins_safe_mode != 0)
            mode.since = mode.last_crash;
        found |= record.begins_safe_mode != 0;
        mode.code = record.code;
        mode.activity = record.activity;
        mode.user_id = record.user_id;
        mode.mission_id = record.mission_id;
    }
    if (!found)
        return std::nullopt;
    return mode;
}

}  // namespace

size_t shared_memory_size() {
    return add_size(offsetof(Shared, slots),
                    mul_size(sizeof(Slot), static_cast<Size>(compat::max_processes())));
}

void use_shared_memory(void* memory, bool is_new) {
    shared = static_cast<Shared*>(memory);
    if (!is_new)
        return;
    memset(memory, 0, shared_memory_size());
    shared->slot_count = compat::max_processes();
    LWLockInitialize(&shared->lock.lock, LWLockNewTrancheId());
    if (!IsUnderPostmaster) {
        static Crashes crashes;
        read_file(crashes);
        publish(crashes);
        on_shmem_exit(on_postmaster_shmem_exit, 0);
    }
}

void begin_process(Code code, uint32_t database) {
    if (!have_slot())
        return;
    Slot* slot = own;
    slot->code = code;
    slot->database = database;
    slot->activity[0] = slot->user_id[0] = slot->mission_id[0] = '\0';
    slot->pid = MyProcPid;
}

void note_activity(const char* what) noexcept {
    Slot* slot = own;
    if (slot == nullptr)
        return;
    copy(slot->activity, what);
    slot->user_id[0] = slot->mission_id[0] = '\0';
}

void note_mission(std::string_view user_id, std::string_view mission_id) noexcept {
    Slot* slot = own;
    if (slot == nullptr)
        return;
    copy(slot->user_id, user_id);
    copy(slot->mission_id, mission_id);
}

Scope::Scope(Code code) {
    if (!have_slot())
        return;
    Slot* slot = own;
    entered_ = true;
    previous_pid_ = slot->pid;
    previous_code_ = slot->code;
    slot->code = code;
    if (previous_pid_ == 0) {
        slot->database = MyDatabaseId;
        slot->activity[0] = slot->user_id[0] = slot->mission_id[0] = '\0';
    }
    slot->pid = MyProcPid;
}

Scope::~Scope() {
    Slot* slot = own;
    if (!entered_ || slot == nullptr)
        return;
    slot->code = previous_code_;
    slot->pid = previous_pid_;
    if (previous_pid_ != 0)
        return;
    // A session outside the extension's code names no user.
    memset(slot->user_id, 0, sizeof(slot->user_id));
    memset(slot->mission_id, 0, sizeof(slot->mission_id));
}

const char* name(Code code) noexcept {
    switch (code) {
        case Code::Launcher:
            return "launcher";
        case Code::Worker:
            return "worker";
        case Code::Tick:
            return "manual tick";
        case Code::Query:
            return "query of the HTTP endpoint";
        case Code::Http:
            return "HTTP endpoint";
        case Code::Trigger:
            return "trigger";
        case Code::Mark:
            return "trigger, reading or marking a row";
        case Code::None:
            break;
    }
    return "unknown";
}

std::optional<SafeMode> safe_mode(uint32_t database) {
    if (database == InvalidOid)
        return std::nullopt;
    return find_safe_mode(database, Code::None);
}

std::optional<SafeMode> safe_mode_of(Code code) {
    return find_safe_mode(InvalidOid, code);
}

int databases_in_safe_mode() {
    if (shared == nullptr || !shared->any_safe_mode || settings::crash_limit() == 0)
        return 0;
    // A database begins its safe mode with one crash.
    int count = 0;
    LWLockAcquire(&shared->lock.lock, LW_SHARED);
    for (int i = 0; i < shared->crashes.count; i++) {
        const Record& record = shared->crashes.records[i];
        count += OidIsValid(record.database) && record.begins_safe_mode != 0 ? 1 : 0;
    }
    LWLockRelease(&shared->lock.lock);
    return count;
}

std::string describe(const SafeMode& mode) {
    std::string text =
        std::to_string(mode.crashes) + " crashes, the last one in the " + name(mode.code);
    if (!mode.activity.empty())
        text += ", activity \"" + mode.activity + "\"";
    if (!mode.mission_id.empty())
        text += ", mission " + mode.mission_id + " of user " + mode.user_id;
    return text;
}

TriggerMode trigger_mode() noexcept {
    if (shared == nullptr || !shared->any_safe_mode || settings::crash_limit() == 0)
        return TriggerMode::Fold;
    bool safe = false;
    bool trigger = false;
    bool mark = false;
    LWLockAcquire(&shared->lock.lock, LW_SHARED);
    for (int i = 0; i < shared->crashes.count; i++) {
        const Record& record = shared->crashes.records[i];
        if (record.database != MyDatabaseId)
            continue;
        safe |= record.begins_safe_mode != 0;
        trigger |= record.code == Code::Trigger;
        mark |= record.code == Code::Mark;
    }
    LWLockRelease(&shared->lock.lock);
    if (!safe)
        return TriggerMode::Fold;
    return mark ? TriggerMode::CountOnly : trigger ? TriggerMode::MarkOnly : TriggerMode::Fold;
}

bool resume() {
    bool was_safe = false;
    change_crashes([&was_safe](Crashes& crashes) {
        for (int i = crashes.count - 1; i >= 0; i--) {
            const Record& record = crashes.records[i];
            if (record.database != MyDatabaseId && OidIsValid(record.database))
                continue;
            was_safe |= record.begins_safe_mode != 0;
            remove_record(crashes, i);
        }
        return true;
    });
    return was_safe;
}

int erase_user(std::string_view user_id) {
    const ErasedUser user(user_id);
    int erased = 0;
    change_crashes([&erased, &user](Crashes& crashes) {
        for (int i = 0; i < crashes.count; i++) {
            Record& record = crashes.records[i];
            if (!user.is_in(record))
                continue;
            memset(record.user_id, 0, sizeof(record.user_id));
            memset(record.mission_id, 0, sizeof(record.mission_id));
            erased++;
        }
        return erased > 0;
    });
    return erased;
}

int count_of_user(std::string_view user_id) {
    if (shared == nullptr)
        return 0;
    const ErasedUser user(user_id);
    return guarded([&user] {
        int count = 0;
        LWLockAcquire(&shared->lock.lock, LW_SHARED);
        for (int i = 0; i < shared->crashes.count; i++)
            count += user.is_in(shared->crashes.records[i]) ? 1 : 0;
        LWLockRelease(&shared->lock.lock);
        return count;
    });
}

}  // namespace mana_ai::pg::crash_watch
