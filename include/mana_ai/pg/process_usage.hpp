// A process's resource usage, as the operating system reports it (docs/contract/interface.md,
// Metrics, process_*).
#pragma once

#include <cstdint>
#include <optional>

namespace mana_ai::pg {

struct ProcessUsage {
    int64_t resident_bytes = 0;
    double cpu_seconds = 0;  // user and system
    int64_t open_fds = 0;
    int64_t max_fds = 0;  // the soft limit; 0 = none or unknown
};

// Of a process of the same operating system user. nullopt if it no longer exists, or if the system
// has no /proc like Linux.
std::optional<ProcessUsage> process_usage(int pid);

}  // namespace mana_ai::pg
