// Answers from the database for a process that is not connected to one (the HTTP endpoint): a
// helper process is connected while there are questions and a moment longer. So no DROP DATABASE is
// blocked, and a slow query does not delay clients that ask for something else.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "mana_ai/core/text/json.hpp"
#include "mana_ai/core/time/instant.hpp"

namespace mana_ai {

class AskedProcess;

struct QueryResult {
    bool answered = false;  // false: no database, no extension, an error, or too late
    std::string text;       // the answer's one value, empty for null
};

class QueryProcess {
 public:
    using Done = std::function<void(QueryResult)>;

    QueryProcess();
    ~QueryProcess();
    QueryProcess(const QueryProcess&) = delete;
    QueryProcess& operator=(const QueryProcess&) = delete;

    // Asks one of the questions of query_process.cpp: {"question": "metrics"}. Questions are
    // answered one after the other; `done` is called from poll(), or at once when too many wait.
    void ask(core::Json question, Done done);

    // Continues with the questions; called when the latch was set or next_at() has come.
    void poll();

    // When poll() has something to do without the latch being set.
    std::optional<core::Instant> next_at() const;

 private:
    struct Waiting {
        std::string question;
        Done done;
    };

    void start_next();
    void finish(QueryResult result);
    bool start_process();
    void complain(const std::string& reason);

    std::unique_ptr<AskedProcess> process_;
    std::deque<Waiting> waiting_;
    std::optional<Waiting> asked_;
    core::Instant opened_at_ = 0;
    core::Instant reopen_at_ = 0;
    std::optional<core::Instant> complained_at_;
    core::Instant deadline_ = 0;  // of what is asked, else of the idle process
};

}  // namespace mana_ai
