// What crash_watch has on record of a user.
#pragma once

#include <string_view>

namespace mana_ai::pg::crash_watch {

// In how many crashes of this process's database the user is: what erase_user() would return.
int count_of_user(std::string_view user_id);

}  // namespace mana_ai::pg::crash_watch
