// Functions with faults that the sanitized server must report. They show that a run without reports
// means something.
extern "C" {
#include "postgres.h"

#include "fmgr.h"

PG_MODULE_MAGIC;

PG_FUNCTION_INFO_V1(read_past_the_end);
PG_FUNCTION_INFO_V1(overflow);
PGDLLEXPORT Datum read_past_the_end(PG_FUNCTION_ARGS);
PGDLLEXPORT Datum overflow(PG_FUNCTION_ARGS);

Datum read_past_the_end(PG_FUNCTION_ARGS) {
    int* numbers = new int[4]{};
    const int value = numbers[PG_GETARG_INT32(0)];
    delete[] numbers;
    PG_RETURN_INT32(value);
}

Datum overflow(PG_FUNCTION_ARGS) {
    PG_RETURN_INT32(PG_GETARG_INT32(0) + 1);
}
}
