// A manual tick in a separate background process: for run_tick(), run_mission() and POST
// /internal/tick (docs/contract/tick.md, "Three ways to run it"). Caller and process communicate
// through a shared memory segment that lives as long as the call.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace mana_ai {

inline constexpr size_t kTickTextSize = 4096;

// Written by the process, read by the caller after the process has ended. No pointers.
struct TickAnswer {
    bool complete;
    int sqlstate;  // not 0: the call failed with this error
    char error_message[kTickTextSize];
    int64_t scanned_at;
    int due, produced, written_back, parse_failures, skipped;
    int error_count;
    char errors[kTickTextSize * 2];  // each ends with a NUL
    char outcome[32];
    char iteration_id[40];
    int steps, rounds;
    int64_t tokens;
    char run_error[kTickTextSize];
    bool has_result;
};

struct TickRequest {
    uint32_t database;
    bool one_mission;
    uint32_t user_id_length;
    uint32_t mission_id_length;
    TickAnswer answer;
    // user_id and mission_id follow.

    char* ids();
    static size_t size(size_t ids);
};

class TickProcess {
 public:
    // A whole tick of a database. Throws PgError, for example when no slot is free.
    explicit TickProcess(uint32_t database);
    // One mission.
    TickProcess(uint32_t database, const std::string& user_id, const std::string& mission_id);
    // Tells a process that has not ended to exit.
    ~TickProcess();
    TickProcess(const TickProcess&) = delete;
    TickProcess& operator=(const TickProcess&) = delete;

    // Waits for the end; a cancel request is thrown as PgError. If this process is terminated, the
    // tick is too.
    void wait();

    // Whether it has ended; our latch is set when it does.
    bool ended();

    // After the end, valid as long as this object. `function` names the caller in an error. Throws
    // PgError if the tick failed.
    const TickAnswer& answer(const char* function) const;

 private:
    TickProcess(uint32_t database, bool one_mission, const std::string& user_id,
                const std::string& mission_id);

    void* segment_;           // dsm_segment*
    void* handle_ = nullptr;  // BackgroundWorkerHandle*
    TickRequest* request_;
    bool ended_ = false;
};

}  // namespace mana_ai
