#include <stdio.h>

#include "expression.h"

int main(int count, char **words)
{
    for (int i = 1; i < count; i++) {
        const char *fault;
        long value = evaluate(words[i], &fault);
        if (fault)
            printf("%s: %s\n", words[i], fault);
        else
            printf("%s = %ld\n", words[i], value);
    }
    return 0;
}
