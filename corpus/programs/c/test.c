#include <assert.h>
#include <string.h>

#include "expression.h"

static void check(const char *text, long expected, const char *expected_fault)
{
    const char *fault;
    long value = evaluate(text, &fault);
    assert(!fault == !expected_fault);
    assert(fault ? !strcmp(fault, expected_fault) : value == expected);
}

int main(void)
{
    check("1", 1, 0);
    check(" 2 * 3 + 4 ", 10, 0);
    check("10 - 3 - 2", 5, 0);
    check("2 * (3 + 4) / 7", 2, 0);
    check("(1", 0, "a parenthesis is missing");
    check("1 1", 0, "there is something behind the end");
    check("", 0, "a number is missing");
    return 0;
}
