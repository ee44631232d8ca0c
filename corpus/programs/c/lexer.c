#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "expression.h"

struct token next_token(const char **text)
{
    struct token token = { END, 0, 0 };
    while (isspace((unsigned char)**text))
        ++*text;
    if (**text == '\0')
        return token;
    if (isdigit((unsigned char)**text)) {
        char *end;
        token.kind = NUMBER;
        token.number = strtol(*text, &end, 10);
        *text = end;
        return token;
    }
    token.kind = strchr("+-*/()", **text) ? SIGN : WRONG;
    token.sign = *(*text)++;
    return token;
}
