// Crashes in the extension's code, and the safe mode that ends a series of them
// (docs/operations.md, "Safe mode").
//
// Shared memory has a slot for every process of the server, which it holds while it is in the
// extension's code. When a process has died by a signal, the postmaster reinitializes shared
// memory; before that, it writes the crashes of the slots that are still taken to a file in the
// data directory. A process that the postmaster ends because of another crash releases its slot
// first.
//
// Without preloading there is no shared memory, no record and no safe mode.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "mana_ai/core/time/instant.hpp"

namespace mana_ai::pg::crash_watch {

// The code that was running. The numbers are stored in a file.
enum class Code : int32_t {
    None = 0,
    Launcher = 1,
    Worker = 2,
    Tick = 3,
    Query = 4,
    Http = 5,
    Trigger = 6,
    Mark = 7,  // the trigger, when it only marks the record
};

// For shared_state, which requests the memory and has the lock.
size_t shared_memory_size();
void use_shared_memory(void* memory, bool is_new);

// A background process is in the extension's code as long as it lives. It is connected to that
// database, or to none (0).
void begin_process(Code code, uint32_t database);

// The current activity: a literal. Clears the mission.
void note_activity(const char* what) noexcept;
// The mission that it is processing.
void note_mission(std::string_view user_id, std::string_view mission_id) noexcept;

// The trigger is running in this process, until the end of the scope.
class Scope {
 public:
    explicit Scope(Code code);
    ~Scope();
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

 private:
    bool entered_ = false;
    int32_t previous_pid_ = 0;
    Code previous_code_ = Code::None;
};

// Why a database is in safe mode: the last crash that counts.
struct SafeMode {
    core::Instant since = 0;
    core::Instant last_crash = 0;
    int crashes = 0;
    Code code = Code::None;
    std::string activity;
    std::string user_id;
    std::string mission_id;
};
const char* name(Code code) noexcept;

// Of a database: no worker and no tick runs there.
std::optional<SafeMode> safe_mode(uint32_t database);
// Of a process that belongs to no database, the launcher or the HTTP endpoint.
std::optional<SafeMode> safe_mode_of(Code code);
int databases_in_safe_mode();
// A description for the log.
std::string describe(const SafeMode& mode);

// What the trigger may do in this process's database.
enum class TriggerMode { Fold, MarkOnly, CountOnly };
TriggerMode trigger_mode() noexcept;

// Forgets the crashes of this process's database, and those of processes without one. False when
// there was no safe mode. Throws PgError when the file cannot be written.
bool resume();

// Removes the user from the crashes of this process's database; the crashes stay on record. Returns
// how many were changed. Throws PgError if the file cannot be written.
int erase_user(std::string_view user_id);

// How many crashes of this process's database name the user: what erase_user() would return.
int count_of_user(std::string_view user_id);

}  // namespace mana_ai::pg::crash_watch
