#include "mana_ai/net/secret.hpp"

#include <string.h>  // explicit_bzero

#include <cstring>
#include <utility>

#include "mana_ai/core/text/wipe.hpp"

namespace mana_ai::net {

Secret::Secret(std::string_view text) {
    if (text.empty()) {
        return;
    }
    data_ = std::make_unique<char[]>(text.size());
    std::memcpy(data_.get(), text.data(), text.size());
    size_ = text.size();
}

Secret::Secret(std::string&& text) : Secret(std::string_view(text)) {
    core::wipe(text);
}

Secret::Secret(Secret&& other) noexcept
    : data_(std::move(other.data_)), size_(std::exchange(other.size_, 0)) {}

Secret& Secret::operator=(Secret&& other) noexcept {
    if (this != &other) {
        clear();
        data_ = std::move(other.data_);
        size_ = std::exchange(other.size_, 0);
    }
    return *this;
}

Secret::~Secret() {
    clear();
}

void Secret::clear() noexcept {
    if (data_) {
        ::explicit_bzero(data_.get(), size_);
    }
    data_.reset();
    size_ = 0;
}

bool Secret::equals(std::string_view other) const noexcept {
    if (other.size() != size_) {
        return false;
    }
    unsigned char difference = 0;
    for (size_t i = 0; i < size_; ++i) {
        difference = static_cast<unsigned char>(difference | (data_[i] ^ other[i]));
    }
    return difference == 0;
}

std::string Secret::prefixed(std::string_view prefix) const {
    std::string line;
    line.reserve(prefix.size() + size_);  // one buffer: growing would leave copies in memory
    line.append(prefix);
    line.append(view());
    return line;
}

}  // namespace mana_ai::net
