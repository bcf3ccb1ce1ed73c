// A background process that asks other models about past runs, for what_if() and evaluate()
// (docs/lineage.md): a model call must not be made in the caller's transaction.
//
// The caller reads and compares with its own privileges. The process only sends, charges and
// records figures, as the extension's owner. What they tell each other, prompts and plans, passes
// through shared memory and is never stored.
#pragma once

#include <cstdint>
#include <memory>

#include "mana_ai/core/text/json.hpp"

namespace mana_ai {

class AskedProcess;

class WhatIfProcess {
 public:
    // For the database of this session. `function` names the caller in errors. Throws PgError, for
    // example when no slot is free.
    explicit WhatIfProcess(const char* function);
    // Ends the process and its call.
    ~WhatIfProcess();
    WhatIfProcess(const WhatIfProcess&) = delete;
    WhatIfProcess& operator=(const WhatIfProcess&) = delete;

    // Waits for the answer to one of the questions of what_if_server.cpp. A cancel request and the
    // process's errors are thrown as PgError.
    core::Json ask(const core::Json& question);

 private:
    const char* function_;
    std::unique_ptr<AskedProcess> process_;
};

}  // namespace mana_ai
