// All metrics as they are now: what was counted, and what is looked up when somebody asks
// (docs/contract/interface.md, Metrics).
#pragma once

#include <string>

#include "mana_ai/core/watch/metrics_text.hpp"

namespace mana_ai {

// Runs inside a transaction; reads our tables of the current database. Throws PgError.
core::MetricsState collect_metrics();

// The exposition, in the database's encoding. Without preload it begins with a comment that says
// whose counters these are.
std::string metrics_exposition();

}  // namespace mana_ai
