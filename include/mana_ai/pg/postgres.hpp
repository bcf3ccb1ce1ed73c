// The only way in which this project includes PostgreSQL's headers.
//
// Include it after every C++ header: PostgreSQL defines macros (Min, Max, _, StrNCpy, printf, …)
// that break the standard library and nlohmann_json.
#pragma once

extern "C" {
#include "postgres.h"

#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/elog.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
}

// PostgreSQL maps these to its own implementations; C++ code that names std::printf would break.
#undef printf
#undef fprintf
#undef sprintf
#undef snprintf
#undef vprintf
#undef vfprintf
#undef vsprintf
#undef vsnprintf
#undef strerror
#undef strerror_r
#undef _
#undef gettext
#undef dgettext
#undef ngettext
#undef dngettext
#undef Min
#undef Max
