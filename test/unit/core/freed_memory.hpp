// Tells whether memory is given back with a secret still in it. Needs AddressSanitizer, with which
// the unit tests are built.
#pragma once

#include <atomic>
#include <cstddef>
#include <string_view>

// The sanitizers' own interface; g++ comes without its header.
extern "C" {
int __sanitizer_install_malloc_and_free_hooks(void (*on_malloc)(const volatile void*, std::size_t),
                                              void (*on_free)(const volatile void*));
std::size_t __sanitizer_get_allocated_size(const volatile void* block);
}

namespace mana_ai::core::test {

// Counts the blocks that are freed during its life while the marker stands in them. One at a time.
class FreedMemoryWatch {
 public:
    // `marker` must be a literal: a copy on the heap would count itself.
    explicit FreedMemoryWatch(std::string_view marker) {
        static const bool installed = __sanitizer_install_malloc_and_free_hooks(
                                          [](const volatile void*, std::size_t) {}, &on_free) != 0;
        works_ = installed;
        count_ = 0;
        marker_ = marker;
    }
    FreedMemoryWatch(const FreedMemoryWatch&) = delete;
    FreedMemoryWatch& operator=(const FreedMemoryWatch&) = delete;
    ~FreedMemoryWatch() { marker_ = {}; }

    bool works() const noexcept { return works_; }
    int count() const noexcept { return count_; }

 private:
    static void on_free(const volatile void* block) {
        const void* const bytes = const_cast<const void*>(block);
        if (!marker_.empty() && bytes != nullptr &&
            std::string_view(static_cast<const char*>(bytes), __sanitizer_get_allocated_size(block))
                    .find(marker_) != std::string_view::npos) {
            ++count_;
        }
    }

    static inline std::string_view marker_;
    static inline std::atomic<int> count_ = 0;
    bool works_ = false;
};

}  // namespace mana_ai::core::test
