// The present values of all metrics: counted ones, and those that are looked up when metrics are
// read (docs/contract/interface.md, Metrics).
#pragma once

#include <string>

#include "mana_ai/core/watch/metrics_text.hpp"

namespace mana_ai {

// Runs inside a transaction; reads the extension's tables of the current database. Throws PgError.
core::MetricsState collect_metrics();

// The exposition, in the database's encoding. Without preloading it begins with a comment that says
// whose counters these are.
std::string metrics_exposition();

}  // namespace mana_ai
