// Owners of keys and of opened values: kept out of core files and of swap where the system allows,
// wiped when no longer needed. docs/contract/inputs.md, Mission key grant.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <utility>

namespace mana_ai::crypto {

// A buffer of any size in separate pages, which core files omit (MADV_DONTDUMP) and which are not
// swapped, up to the limit on locked memory. Wiped on destruction, assignment and clear().
// Move-only, has no stream operator. Allocation fails with std::bad_alloc.
class SecretBytes {
 public:
    SecretBytes() noexcept = default;
    // `size` zero bytes.
    explicit SecretBytes(std::size_t size);
    // Copies; the caller wipes the original.
    static SecretBytes copy_of(std::span<const std::uint8_t> bytes);
    static SecretBytes copy_of(std::string_view text);

    SecretBytes(SecretBytes&& other) noexcept;
    SecretBytes& operator=(SecretBytes&& other) noexcept;
    SecretBytes(const SecretBytes&) = delete;
    SecretBytes& operator=(const SecretBytes&) = delete;
    ~SecretBytes() { clear(); }

    std::uint8_t* data() noexcept { return data_; }
    const std::uint8_t* data() const noexcept { return data_; }
    std::size_t size() const noexcept { return size_; }
    bool empty() const noexcept { return size_ == 0; }
    // Both are valid until this object is moved from, assigned to or cleared.
    std::span<const std::uint8_t> bytes() const noexcept { return {data_, size_}; }
    std::string_view view() const noexcept { return {reinterpret_cast<const char*>(data_), size_}; }

    // Keeps the first `size` bytes, at most all, and wipes the rest.
    void truncate(std::size_t size) noexcept;
    void clear() noexcept;

    // Compares in a time that depends on the sizes only.
    bool equals(std::span<const std::uint8_t> other) const noexcept;

 private:
    std::uint8_t* data_ = nullptr;
    std::size_t size_ = 0;
    std::size_t mapped_ = 0;  // whole pages; 0 without a buffer
};

// A secret of exactly Size bytes, or none at all: by default and after it was moved from.
template <std::size_t Size>
class SecretArray {
 public:
    SecretArray() noexcept = default;
    // Takes the bytes if they have the right size; otherwise the result is empty.
    explicit SecretArray(SecretBytes bytes) noexcept {
        if (bytes.size() == Size) {
            bytes_ = std::move(bytes);
        }
    }

    bool empty() const noexcept { return bytes_.empty(); }
    // Size bytes, none if empty.
    std::span<const std::uint8_t> bytes() const noexcept { return bytes_.bytes(); }
    void clear() noexcept { bytes_.clear(); }
    bool equals(std::span<const std::uint8_t> other) const noexcept { return bytes_.equals(other); }

 private:
    SecretBytes bytes_;
};

}  // namespace mana_ai::crypto
