#include "mana_ai/extension/input/grant_key.hpp"

#include <sys/prctl.h>
#include <unistd.h>

#include <utility>
#include <variant>

#include "mana_ai/pg/log.hpp"
#include "mana_ai/pg/settings.hpp"

namespace mana_ai {

void GrantKey::load() {
    const std::string path = pg::settings::grant_private_key_file();
    std::string state = "not configured";
    std::shared_ptr<const crypto::PrivateKey> key;
    if (!path.empty()) {
        // Before the file is read, so that the buffers of the read are protected as well.
        (void)prctl(PR_SET_DUMPABLE, 0);
        try {
            auto loaded = crypto::PrivateKey::load(path, geteuid());
            if (auto* read = std::get_if<crypto::PrivateKey>(&loaded)) {
                key = std::make_shared<const crypto::PrivateKey>(std::move(*read));
                state = "loaded";
            } else {
                state = "the file " + std::string(std::get<crypto::PrivateKeyError>(loaded).reason);
            }
        } catch (const std::exception&) {
            state = "the file could not be read: out of memory, or OpenSSL is not available";
        }
    }
    if (state != state_ && !path.empty() && !key)
        pg::log_warning("key grants are disabled: mana_ai.grant_private_key_file cannot be used: " +
                        state);
    key_ = std::move(key);
    state_ = std::move(state);
}

}  // namespace mana_ai
