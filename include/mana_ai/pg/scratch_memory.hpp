// A memory context for the lifetime of an object.
#pragma once

#include "mana_ai/pg/guard.hpp"

namespace mana_ai::pg {

// Creates a context, makes it the current one and, at the end of the scope, frees everything that
// was allocated in it.
class ScratchMemory {
 public:
    explicit ScratchMemory(const char* name)
        : outer_(CurrentMemoryContext), memory_(guarded([name] {
              return AllocSetContextCreateInternal(CurrentMemoryContext, name,
                                                   ALLOCSET_DEFAULT_SIZES);
          })) {
        MemoryContextSwitchTo(memory_);
    }
    ~ScratchMemory() {
        MemoryContextSwitchTo(outer_);
        MemoryContextDelete(memory_);
    }
    ScratchMemory(const ScratchMemory&) = delete;
    ScratchMemory& operator=(const ScratchMemory&) = delete;

 private:
    MemoryContext outer_;
    MemoryContext memory_;
};

}  // namespace mana_ai::pg
