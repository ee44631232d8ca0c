#include "expression.h"

struct parser {
    const char *text;
    struct token token;
    const char *fault;
};

static long sum(struct parser *parser);

static void advance(struct parser *parser)
{
    parser->token = next_token(&parser->text);
}

static int at(const struct parser *parser, char sign)
{
    return parser->token.kind == SIGN && parser->token.sign == sign;
}

static long fail(struct parser *parser, const char *fault)
{
    if (!parser->fault)
        parser->fault = fault;
    return 0;
}

static long operand(struct parser *parser)
{
    long value = parser->token.number;
    if (parser->token.kind == NUMBER) {
        advance(parser);
        return value;
    }
    if (!at(parser, '('))
        return fail(parser, "a number is missing");
    advance(parser);
    value = sum(parser);
    if (!at(parser, ')'))
        return fail(parser, "a parenthesis is missing");
    advance(parser);
    return value;
}

static long product(struct parser *parser)
{
    long value = operand(parser);
    while (at(parser, '*') || at(parser, '/')) {
        int divide = at(parser, '/');
        advance(parser);
        long right = operand(parser);
        if (divide && right == 0)
            return fail(parser, "division by zero");
        value = divide ? value / right : value * right;
    }
    return value;
}

static long sum(struct parser *parser)
{
    long value = product(parser);
    while (at(parser, '+') || at(parser, '-')) {
        int minus = at(parser, '-');
        advance(parser);
        long right = product(parser);
        value = minus ? value - right : value + right;
    }
    return value;
}

long evaluate(const char *text, const char **fault)
{
    struct parser parser = { text, { END, 0, 0 }, 0 };
    advance(&parser);
    long value = sum(&parser);
    if (parser.token.kind != END)
        fail(&parser, "there is something behind the end");
    *fault = parser.fault;
    return value;
}
