// Owners of key material: wiped from memory when no longer needed.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>

namespace mana_ai::net {

// A string that is wiped on destruction, assignment and move. Not copyable, has no stream operator.
class Secret {
 public:
    Secret() noexcept = default;
    // Copies the text; the caller's original stays as it is.
    explicit Secret(std::string_view text);
    // Copies the text and wipes the original.
    explicit Secret(std::string&& text);
    Secret(Secret&& other) noexcept;
    Secret& operator=(Secret&& other) noexcept;
    Secret(const Secret&) = delete;
    Secret& operator=(const Secret&) = delete;
    ~Secret();

    std::string_view view() const noexcept { return {data_.get(), size_}; }
    size_t size() const noexcept { return size_; }
    bool empty() const noexcept { return size_ == 0; }
    void clear() noexcept;

    // Compares in a time that depends on the lengths only.
    bool equals(std::string_view other) const noexcept;

    // "Authorization: Bearer " + secret, and the like. The receiver wipes it; HttpClient does.
    std::string prefixed(std::string_view prefix) const;

 private:
    std::unique_ptr<char[]> data_;  // not a std::string, which could leave a copy when moved
    size_t size_ = 0;
};

}  // namespace mana_ai::net
