#include "mana_ai/pg/process_usage.hpp"

#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>

namespace mana_ai::pg {

namespace {

std::string folder_of(int pid) {
    return "/proc/" + std::to_string(pid);
}

// utime and stime are the fields 14 and 15. The name, field 2, may contain spaces and parentheses.
std::optional<double> cpu_seconds(const std::string& folder) {
    std::ifstream file(folder + "/stat");
    std::string line;
    if (!std::getline(file, line) || line.rfind(')') == std::string::npos)
        return std::nullopt;
    std::istringstream fields(line.substr(line.rfind(')') + 1));
    std::string skipped;
    for (int field = 3; field < 14; field++)
        fields >> skipped;
    int64_t user = 0;
    int64_t system = 0;
    if (!(fields >> user >> system))
        return std::nullopt;
    return static_cast<double>(user + system) / static_cast<double>(sysconf(_SC_CLK_TCK));
}

int64_t resident_bytes(const std::string& folder) {
    std::ifstream file(folder + "/statm");
    int64_t size = 0;
    int64_t resident = 0;
    file >> size >> resident;
    return resident * sysconf(_SC_PAGESIZE);
}

int64_t count_entries(const std::string& folder) {
    std::error_code error;
    int64_t count = 0;
    for (std::filesystem::directory_iterator entry(folder, error), end; !error && entry != end;
         entry.increment(error))
        count++;
    return count;
}

int64_t max_fds(const std::string& folder) {
    constexpr std::string_view kRow = "Max open files";
    std::ifstream file(folder + "/limits");
    for (std::string line; std::getline(file, line);) {
        if (!line.starts_with(kRow))
            continue;
        std::istringstream fields(line.substr(kRow.size()));
        int64_t soft = 0;
        fields >> soft;
        return soft;
    }
    return 0;
}

}  // namespace

std::optional<ProcessUsage> process_usage(int pid) {
    const std::string folder = folder_of(pid);
    const auto cpu = cpu_seconds(folder);
    if (!cpu)
        return std::nullopt;
    ProcessUsage usage;
    usage.cpu_seconds = *cpu;
    usage.resident_bytes = resident_bytes(folder);
    usage.open_fds = count_entries(folder + "/fd");
    usage.max_fds = max_fds(folder);
    return usage;
}

}  // namespace mana_ai::pg
