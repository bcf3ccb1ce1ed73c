// Which records missions wait for, as bits in shared memory: a hint for the trigger, of one hash
// probe. A bit that is set may be another record's; one that is not set is none's. Bits are never
// cleared while the server runs.
//
// Without preloading there is no filter, and nothing waits.
#pragma once

#include <cstddef>
#include <cstdint>

namespace mana_ai::pg::watch_filter {

// For the hooks of shared memory.
size_t shared_memory_size();
void use_shared_memory(void* memory, bool is_new);

enum class Answer : uint8_t {
    No,
    Maybe,
    Unknown,  // since the server's start nobody has called complete() for this database
};

// Of this database. Inline parts of the hot path: none of these raises or waits.
bool is_quiet();  // nothing waits
Answer look_up(uint64_t hash);

// To be called before the transaction commits that stores the record. Waits for other processes
// only as long as they search a list.
void add(uint64_t hash);

// All that was committed has been added.
void complete();
bool is_complete();

}  // namespace mana_ai::pg::watch_filter
