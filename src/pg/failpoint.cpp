#include "mana_ai/pg/failpoint.hpp"

#ifdef MANA_AI_FAILPOINTS

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <map>
#include <optional>
#include <stdexcept>
#include <string>

#include "mana_ai/core/text/ascii.hpp"
#include "mana_ai/pg/guard.hpp"
#include "mana_ai/pg/log.hpp"

extern "C" {
#include "miscadmin.h"
#include "utils/guc.h"
}

namespace mana_ai::pg {

namespace {

char* failpoints = nullptr;

struct Failpoint {
    std::string name;
    std::string action;
    std::string argument;  // of error and sleep
    bool once = false;
    int only = 0;  // the time that counts; 0 = each
};

bool is_number(const std::string& text) {
    return !text.empty() && text.size() < 8 &&
           std::all_of(text.begin(), text.end(), [](char c) { return c >= '0' && c <= '9'; });
}

// Nullopt if the entry is invalid.
std::optional<Failpoint> parse(std::string_view entry) {
    const size_t equals = entry.find('=');
    if (equals == std::string_view::npos)
        return std::nullopt;
    Failpoint point;
    point.name = core::ascii::trimmed(entry.substr(0, equals));
    std::string rest(core::ascii::trimmed(entry.substr(equals + 1)));
    if (const size_t at = rest.find('@'); at != std::string::npos) {
        const std::string when = rest.substr(at + 1);
        rest.resize(at);
        point.once = when == "once";
        if (!point.once && !is_number(when))
            return std::nullopt;
        point.only = point.once ? 0 : atoi(when.c_str());
    }
    if (const size_t colon = rest.find(':'); colon != std::string::npos) {
        point.argument = rest.substr(colon + 1);
        rest.resize(colon);
    }
    point.action = rest;
    const bool bare = point.argument.empty();
    const bool known = ((rest == "kill" || rest == "segv" || rest == "throw") && bare) ||
                       (rest == "error" && (bare || point.argument.size() == 5)) ||
                       (rest == "sleep" && is_number(point.argument));
    return known && is_failpoint(point.name) ? std::optional(point) : std::nullopt;
}

// Calls f with each entry; false if f returns false or an entry is invalid.
template <class F>
bool for_each(std::string_view list, F&& f) {
    while (!list.empty()) {
        const size_t comma = list.find(',');
        const std::string_view entry = list.substr(0, comma);
        list = comma == std::string_view::npos ? std::string_view() : list.substr(comma + 1);
        if (core::ascii::trimmed(entry).empty())
            continue;
        const auto point = parse(entry);
        if (!point || !f(*point))
            return false;
    }
    return true;
}

extern "C" {
static bool check_failpoints(char** value, void**, GucSource) {
    try {
        return for_each(*value, [](const Failpoint&) { return true; });
    } catch (const std::exception&) {
        return false;
    }
}
}

// True for the first process that calls it. The working directory is the data directory.
bool take_once(const std::string& name) {
    const int file = open(("mana_ai_failpoint." + name).c_str(), O_CREAT | O_EXCL | O_WRONLY, 0600);
    if (file < 0)
        return false;
    close(file);
    return true;
}

[[noreturn]] void die(int signal) {
    (void)std::signal(signal, SIG_DFL);
    (void)kill(getpid(), signal);
    for (;;)
        pause();
}

void act(const Failpoint& point) {
    log_info("failpoint " + point.name + ": " + point.action);
    if (point.action == "kill")
        die(SIGKILL);
    if (point.action == "segv")
        die(SIGSEGV);
    if (point.action == "throw")
        throw std::runtime_error("failpoint");
    if (point.action == "sleep") {
        // In small pieces, since signals would end a long one early.
        for (long left = atol(point.argument.c_str()); left > 0; left--)
            usleep(1000);
        return;
    }
    const std::string state = point.argument.empty() ? "XX000" : point.argument;
    throw make_error(MAKE_SQLSTATE(state[0], state[1], state[2], state[3], state[4]),
                     "failpoint " + point.name);
}

}  // namespace

void define_failpoint_setting() {
    DefineCustomStringVariable("mana_ai.failpoints", "What tests make happen at named places.",
                               nullptr, &failpoints, "", PGC_SUSET, 0, check_failpoints, nullptr,
                               nullptr);
}

void reach_failpoint(const char* name) {
    static std::map<std::string, int> times;
    static std::string counted_for;
    if (failpoints == nullptr || *failpoints == '\0')
        return;
    if (counted_for != failpoints) {
        counted_for = failpoints;
        times.clear();
    }
    std::optional<Failpoint> reached;
    for_each(failpoints, [&](const Failpoint& point) {
        if (point.name == name)
            reached = point;
        return !reached;
    });
    if (!reached || (reached->only != 0 && ++times[name] != reached->only) ||
        (reached->once && !take_once(name)))
        return;
    act(*reached);
}

}  // namespace mana_ai::pg

#endif
