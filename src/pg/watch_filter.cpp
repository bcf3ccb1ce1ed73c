#include "mana_ai/pg/watch_filter.hpp"

#include <atomic>
#include <new>

#include "mana_ai/pg/postgres.hpp"
#include "shared_locks.hpp"

extern "C" {
#include "miscadmin.h"
}

namespace mana_ai::pg::watch_filter {

namespace {

// With 10,000 records in a database one other record in fifty is found by mistake.
constexpr size_t kBits = 128 * 1024;
constexpr size_t kWords = kBits / 64;
constexpr int kMaxDatabases = 32;

struct Filter {
    std::atomic<Oid> database{InvalidOid};
    std::atomic<bool> is_complete{false};
    std::atomic<bool> has_bits{false};
    std::atomic<uint64_t> words[kWords]{};
};

struct Shared {
    Filter filters[kMaxDatabases];  // taken with SharedLock::WatchFilters held
};

Shared* shared = nullptr;
Filter* own = nullptr;  // of this database

// A filter never changes its database.
Filter* find() {
    if (own != nullptr || shared == nullptr)
        return own;
    for (Filter& filter : shared->filters) {
        const Oid database = filter.database.load(std::memory_order_acquire);
        if (database == InvalidOid)
            break;
        if (database == MyDatabaseId) {
            own = &filter;
            break;
        }
    }
    return own;
}

Filter* find_or_take() {
    if (find() != nullptr || shared == nullptr)
        return own;
    const SharedLockScope lock(SharedLock::WatchFilters);
    for (Filter& filter : shared->filters) {
        const Oid database = filter.database.load(std::memory_order_relaxed);
        if (database != InvalidOid && database != MyDatabaseId)
            continue;
        filter.database.store(MyDatabaseId, std::memory_order_release);
        own = &filter;
        break;
    }
    return own;
}

struct Place {
    size_t word;
    uint64_t bit;
};
Place place(uint64_t number) {
    return {number / 64 % kWords, uint64_t{1} << (number % 64)};
}

bool has(const Filter& filter, uint64_t number) {
    const Place at = place(number);
    return (filter.words[at.word].load(std::memory_order_acquire) & at.bit) != 0;
}

void set(Filter& filter, uint64_t number) {
    const Place at = place(number);
    filter.words[at.word].fetch_or(at.bit, std::memory_order_release);
}

}  // namespace

size_t shared_memory_size() {
    return sizeof(Shared);
}

void use_shared_memory(void* memory, bool is_new) {
    shared = static_cast<Shared*>(memory);
    if (is_new)
        new (shared) Shared{};
}

bool is_quiet() {
    if (shared == nullptr)
        return true;
    const Filter* filter = find();
    return filter != nullptr && filter->is_complete.load(std::memory_order_acquire) &&
           !filter->has_bits.load(std::memory_order_acquire);
}

Answer look_up(uint64_t hash) {
    if (shared == nullptr)
        return Answer::No;
    const Filter* filter = find();
    if (filter == nullptr || !filter->is_complete.load(std::memory_order_acquire))
        return Answer::Unknown;
    return has(*filter, hash) && has(*filter, hash >> 32) ? Answer::Maybe : Answer::No;
}

void add(uint64_t hash) {
    Filter* filter = find_or_take();
    if (filter == nullptr)
        return;
    set(*filter, hash);
    set(*filter, hash >> 32);
    filter->has_bits.store(true, std::memory_order_release);
}

void complete() {
    if (Filter* filter = find_or_take())
        filter->is_complete.store(true, std::memory_order_release);
}

bool is_complete() {
    const Filter* filter = find();
    return shared == nullptr ||
           (filter != nullptr && filter->is_complete.load(std::memory_order_acquire));
}

}  // namespace mana_ai::pg::watch_filter
