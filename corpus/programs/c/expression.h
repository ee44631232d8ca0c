/* Whole numbers with + - * / and parentheses. */
#ifndef EXPRESSION_H
#define EXPRESSION_H

enum kind { END, NUMBER, SIGN, WRONG };

struct token {
    enum kind kind;
    long number;
    char sign;
};

/* Takes the next token off the text. */
struct token next_token(const char **text);

/* The value of a text; a message in *fault if it has none. */
long evaluate(const char *text, const char **fault);

#endif
