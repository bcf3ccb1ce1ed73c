#include "mana_ai/crypto/secret_bytes.hpp"

#include <openssl/crypto.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <mutex>
#include <new>

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define MANA_AI_ADDRESS_SANITIZER 1
#endif
#elif defined(__SANITIZE_ADDRESS__)
#define MANA_AI_ADDRESS_SANITIZER 1
#endif

#ifdef MANA_AI_ADDRESS_SANITIZER
extern "C" void __asan_poison_memory_region(const volatile void*, std::size_t);
extern "C" void __asan_unpoison_memory_region(const volatile void*, std::size_t);
#endif

namespace mana_ai::crypto {

namespace {

// The sanitizer does not track memory from mmap; with these it detects reads past a buffer's end.
void forbid([[maybe_unused]] const void* from, [[maybe_unused]] std::size_t size) noexcept {
#ifdef MANA_AI_ADDRESS_SANITIZER
    __asan_poison_memory_region(from, size);
#endif
}

void permit([[maybe_unused]] const void* from, [[maybe_unused]] std::size_t size) noexcept {
#ifdef MANA_AI_ADDRESS_SANITIZER
    __asan_unpoison_memory_region(from, size);
#endif
}

std::size_t page_size() noexcept {
    static const auto size = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
    return size;
}

std::uint8_t* map_pages(std::size_t size) {
    void* pages = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (pages == MAP_FAILED) {
        throw std::bad_alloc();
    }
    // Both are best effort: a container may allow no locked memory, and the buffer works without
    // it.
#ifdef MADV_DONTDUMP
    (void)::madvise(pages, size, MADV_DONTDUMP);
#endif
    (void)::mlock(pages, size);
    return static_cast<std::uint8_t*>(pages);
}

// Single wiped pages for the next small secret: a record has many small fields, and three system
// calls for each of them would cost more than opening it.
class SparePages {
 public:
    std::uint8_t* take() noexcept {
        const std::lock_guard lock(mutex_);
        return count_ == 0 ? nullptr : pages_[--count_];
    }

    // False if there are enough of them.
    bool keep(std::uint8_t* page) noexcept {
        const std::lock_guard lock(mutex_);
        if (count_ == pages_.size()) {
            return false;
        }
        pages_[count_++] = page;
        return true;
    }

 private:
    std::mutex mutex_;
    std::array<std::uint8_t*, 64> pages_{};
    std::size_t count_ = 0;
};

// Never destroyed, so a secret with static storage can still release its page.
constinit SparePages spare_pages;

}  // namespace

SecretBytes::SecretBytes(std::size_t size) {
    if (size == 0) {
        return;
    }
    const std::size_t page = page_size();
    if (size > SIZE_MAX - page) {
        throw std::bad_alloc();
    }
    const std::size_t mapped = (size + page - 1) / page * page;
    if (mapped == page) {
        data_ = spare_pages.take();
    }
    if (data_ == nullptr) {
        data_ = map_pages(mapped);
    }
    permit(data_, size);
    forbid(data_ + size, mapped - size);
    size_ = size;
    mapped_ = mapped;
}

SecretBytes SecretBytes::copy_of(std::span<const std::uint8_t> bytes) {
    SecretBytes copy(bytes.size());
    std::copy(bytes.begin(), bytes.end(), copy.data_);
    return copy;
}

SecretBytes SecretBytes::copy_of(std::string_view text) {
    return copy_of(std::span(reinterpret_cast<const std::uint8_t*>(text.data()), text.size()));
}

SecretBytes::SecretBytes(SecretBytes&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)),
      mapped_(std::exchange(other.mapped_, 0)) {}

SecretBytes& SecretBytes::operator=(SecretBytes&& other) noexcept {
    if (this != &other) {
        clear();
        data_ = std::exchange(other.data_, nullptr);
        size_ = std::exchange(other.size_, 0);
        mapped_ = std::exchange(other.mapped_, 0);
    }
    return *this;
}

void SecretBytes::truncate(std::size_t size) noexcept {
    if (size < size_) {
        OPENSSL_cleanse(data_ + size, size_ - size);
        forbid(data_ + size, size_ - size);
        size_ = size;
    }
}

void SecretBytes::clear() noexcept {
    if (mapped_ != 0) {
        permit(data_, mapped_);
        // truncate() has wiped what may have been beyond size_.
        OPENSSL_cleanse(data_, size_);
        if (mapped_ != page_size() || !spare_pages.keep(data_)) {
            ::munmap(data_, mapped_);
        }
    }
    data_ = nullptr;
    size_ = 0;
    mapped_ = 0;
}

bool SecretBytes::equals(std::span<const std::uint8_t> other) const noexcept {
    return other.size() == size_ && (size_ == 0 || CRYPTO_memcmp(data_, other.data(), size_) == 0);
}

}  // namespace mana_ai::crypto
