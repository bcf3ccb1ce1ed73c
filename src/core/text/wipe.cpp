#include "mana_ai/core/text/wipe.hpp"

#include <algorithm>
#include <cstring>  // glibc declares explicit_bzero here too

namespace mana_ai::core {

void wipe(std::string& text) noexcept {
    wipe(text, 0);
}

void wipe(std::string& text, std::size_t from) noexcept {
    from = std::min(from, text.size());
    // Growing to the capacity never allocates; it makes every byte of the buffer ours to overwrite.
    text.resize(text.capacity());
    ::explicit_bzero(text.data() + from, text.size() - from);
    text.clear();
}

void wipe(Json& value) noexcept {
    if (value.is_string()) {
        wipe(value.get_ref<std::string&>());
    } else if (value.is_binary()) {
        auto& bytes = value.get_binary();
        ::explicit_bzero(bytes.data(), bytes.size());
    } else if (value.is_structured()) {
        for (Json& element : value) {
            wipe(element);
        }
        // Emptied from the leaves up, since destroying a filled container allocates.
        value.clear();
    }
    value = nullptr;
}

}  // namespace mana_ai::core
