//! From a template's text to its tree.

use serde_json::Value;

/// How deep blocks and parentheses may stand in each other.
const MAX_DEPTH: usize = 64;

/// A piece of a template.
#[derive(Debug)]
pub(super) enum Node {
    Text(String),
    Print(Pipe),
    Assign(String, Pipe),
    If(Pipe, Vec<Node>, Vec<Node>),
    With(Pipe, Vec<Node>, Vec<Node>),
    /// The names of key and value, what is gone through, the body, and what stands for none.
    Range(Option<String>, Option<String>, Pipe, Vec<Node>, Vec<Node>),
}

/// Calls, each given the former's value as its last argument.
pub(super) type Pipe = Vec<Call>;

/// A function with its operands, or one operand alone.
#[derive(Debug)]
pub(super) enum Call {
    Function(String, Vec<Operand>),
    Value(Operand),
}

/// What a function works on.
#[derive(Debug)]
pub(super) enum Operand {
    /// Fields of the dot.
    Dot(Vec<String>),
    /// Fields of a variable; the empty name is the whole data.
    Variable(String, Vec<String>),
    Literal(Value),
    Group(Pipe, Vec<String>),
    /// A function without arguments in an operand's place.
    Function(String),
}

#[derive(Debug, Clone, PartialEq)]
enum Token {
    /// `.A.B`; none for the dot alone.
    Fields(Vec<String>),
    Variable(String, Vec<String>),
    Word(String),
    Literal(Value),
    Open,
    Close(Vec<String>),
    Bar,
    Comma,
    Assign,
}

enum Piece {
    Text(String),
    Action(Vec<Token>),
}

pub(super) fn template(text: &str) -> Result<Vec<Node>, String> {
    let mut pieces = cut(text)?.into_iter();
    let (nodes, end) = block(&mut pieces, 0)?;
    match end {
        None => Ok(nodes),
        Some(_) => Err("{{end}} or {{else}} without a block".to_owned()),
    }
}

fn cut(text: &str) -> Result<Vec<Piece>, String> {
    let mut pieces = Vec::new();
    let mut rest = text;
    let mut trim = false;
    while let Some(start) = rest.find("{{") {
        let (before, tail) = rest.split_at(start);
        let inside = tail.get(2..).unwrap_or_default();
        let end = action_end(inside).ok_or("an action {{ is not closed by }}")?;
        let mut action = inside.get(..end).unwrap_or_default();
        rest = inside.get(end + 2..).unwrap_or_default();
        let mut before = if trim { before.trim_start() } else { before };
        if let Some(stripped) = action.strip_prefix("- ") {
            before = before.trim_end();
            action = stripped;
        }
        trim = false;
        if let Some(stripped) = action.strip_suffix(" -") {
            trim = true;
            action = stripped;
        }
        pieces.push(Piece::Text(before.to_owned()));
        let action = action.trim();
        if !(action.starts_with("/*") && action.ends_with("*/")) {
            pieces.push(Piece::Action(tokens(action)?));
        }
    }
    pieces.push(Piece::Text((if trim { rest.trim_start() } else { rest }).to_owned()));
    Ok(pieces)
}

/// Where `}}` stands, outside of quotes.
fn action_end(text: &str) -> Option<usize> {
    let mut quote: Option<char> = None;
    let mut escaped = false;
    for (index, c) in text.char_indices() {
        match quote {
            Some(_) if escaped => escaped = false,
            Some('"') if c == '\\' => escaped = true,
            Some(open) if c == open => quote = None,
            Some(_) => {}
            None if c == '"' || c == '`' => quote = Some(c),
            None if text.get(index..).is_some_and(|tail| tail.starts_with("}}")) => return Some(index),
            None => {}
        }
    }
    None
}

fn is_name(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn tokens(text: &str) -> Result<Vec<Token>, String> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        if c.is_whitespace() {
            rest = rest.trim_start();
            continue;
        }
        let (token, tail) = match c {
            '.' => {
                let (fields, tail) = fields(rest);
                let tail = if fields.is_empty() { tail.get(1..).unwrap_or_default() } else { tail };
                (Token::Fields(fields), tail)
            }
            '$' => {
                let (name, tail) = split_name(rest.get(1..).unwrap_or_default());
                let (fields, tail) = fields(tail);
                (Token::Variable(name.to_owned(), fields), tail)
            }
            '(' => (Token::Open, &rest[1..]),
            ')' => {
                let (fields, tail) = fields(&rest[1..]);
                (Token::Close(fields), tail)
            }
            '|' => (Token::Bar, &rest[1..]),
            ',' => (Token::Comma, &rest[1..]),
            ':' if rest.starts_with(":=") => (Token::Assign, &rest[2..]),
            '=' => (Token::Assign, &rest[1..]),
            '"' | '`' => string(rest, c)?,
            '-' | '0'..='9' => number(rest)?,
            _ if is_name(c) => {
                let (name, tail) = split_name(rest);
                let token = match name {
                    "true" => Token::Literal(Value::Bool(true)),
                    "false" => Token::Literal(Value::Bool(false)),
                    "nil" => Token::Literal(Value::Null),
                    _ => Token::Word(name.to_owned()),
                };
                (token, tail)
            }
            other => return Err(format!("unexpected {other:?}")),
        };
        found.push(token);
        rest = tail;
    }
    Ok(found)
}

fn split_name(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c| !is_name(c)).unwrap_or(text.len()))
}

fn fields(text: &str) -> (Vec<String>, &str) {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(tail) = rest.strip_prefix('.') {
        let (name, tail) = split_name(tail);
        if name.is_empty() {
            break;
        }
        found.push(name.to_owned());
        rest = tail;
    }
    (found, rest)
}

fn string(text: &str, quote: char) -> Result<(Token, &str), String> {
    let mut value = String::new();
    let mut chars = text.char_indices().skip(1);
    while let Some((index, c)) = chars.next() {
        if c == quote {
            return Ok((Token::Literal(Value::String(value)), &text[index + 1..]));
        }
        if c == '\\' && quote == '"' {
            match chars.next() {
                Some((_, 'n')) => value.push('\n'),
                Some((_, 't')) => value.push('\t'),
                Some((_, 'r')) => value.push('\r'),
                Some((_, other @ ('"' | '\\' | '\''))) => value.push(other),
                Some((_, other)) => return Err(format!("unknown escape \\{other}")),
                None => break,
            }
        } else {
            value.push(c);
        }
    }
    Err("a string is not closed".to_owned())
}

fn number(text: &str) -> Result<(Token, &str), String> {
    let end = text
        .char_indices()
        .find(|(index, c)| !(c.is_ascii_digit() || *c == '.' || (*index == 0 && *c == '-')))
        .map_or(text.len(), |(index, _)| index);
    let (digits, tail) = text.split_at(end);
    let value = match digits.parse::<i64>() {
        Ok(value) => Value::from(value),
        Err(_) => digits.parse::<f64>().map(Value::from).map_err(|_| format!("bad number {digits:?}"))?,
    };
    Ok((Token::Literal(value), tail))
}

/// What ended a block.
enum BlockEnd {
    End,
    Else(Vec<Token>),
}

fn block(pieces: &mut std::vec::IntoIter<Piece>, depth: usize) -> Result<(Vec<Node>, Option<BlockEnd>), String> {
    if depth > MAX_DEPTH {
        return Err(format!("more than {MAX_DEPTH} blocks in each other"));
    }
    let mut nodes = Vec::new();
    while let Some(piece) = pieces.next() {
        let action = match piece {
            Piece::Text(text) => {
                if !text.is_empty() {
                    nodes.push(Node::Text(text));
                }
                continue;
            }
            Piece::Action(action) => action,
        };
        match action.as_slice() {
            [] => return Err("an empty action {{}}".to_owned()),
            [Token::Word(word)] if word == "end" => return Ok((nodes, Some(BlockEnd::End))),
            [Token::Word(word), rest @ ..] if word == "else" => {
                return Ok((nodes, Some(BlockEnd::Else(rest.to_vec()))));
            }
            [Token::Word(word), rest @ ..] if ["if", "with", "range"].contains(&word.as_str()) => {
                nodes.push(opened(word, rest, pieces, depth)?);
            }
            [Token::Word(word), ..]
                if ["template", "block", "define", "break", "continue"].contains(&word.as_str()) =>
            {
                return Err(format!("{{{{{word}}}}} is not supported"));
            }
            [Token::Variable(name, fields), Token::Assign, rest @ ..] if fields.is_empty() => {
                nodes.push(Node::Assign(name.clone(), whole_pipe(rest)?));
            }
            other => nodes.push(Node::Print(whole_pipe(other)?)),
        }
    }
    Ok((nodes, None))
}

fn opened(word: &str, head: &[Token], pieces: &mut std::vec::IntoIter<Piece>, depth: usize) -> Result<Node, String> {
    let missing = || format!("{{{{{word}}}}} has no {{{{end}}}}");
    let (body, end) = block(pieces, depth + 1)?;
    let otherwise = match end.ok_or_else(missing)? {
        BlockEnd::End => Vec::new(),
        BlockEnd::Else(rest) => match rest.as_slice() {
            [] => match block(pieces, depth + 1)? {
                (nodes, Some(BlockEnd::End)) => nodes,
                (_, Some(BlockEnd::Else(_))) => return Err("a second {{else}}".to_owned()),
                (_, None) => return Err(missing()),
            },
            // The chained block takes the one {{end}} for both.
            [Token::Word(next), rest @ ..] if next == "if" || next == "with" => {
                if depth + 1 > MAX_DEPTH {
                    return Err(format!("more than {MAX_DEPTH} blocks in each other"));
                }
                vec![opened(next, rest, pieces, depth + 1)?]
            }
            _ => return Err("{{else}} is followed by nothing, if or with".to_owned()),
        },
    };
    Ok(match (word, head) {
        ("if", head) => Node::If(whole_pipe(head)?, body, otherwise),
        ("with", head) => Node::With(whole_pipe(head)?, body, otherwise),
        (_, [Token::Variable(key, _), Token::Comma, Token::Variable(value, _), Token::Assign, rest @ ..]) => {
            Node::Range(Some(key.clone()), Some(value.clone()), whole_pipe(rest)?, body, otherwise)
        }
        (_, [Token::Variable(value, _), Token::Assign, rest @ ..]) => {
            Node::Range(None, Some(value.clone()), whole_pipe(rest)?, body, otherwise)
        }
        (_, head) => Node::Range(None, None, whole_pipe(head)?, body, otherwise),
    })
}

fn whole_pipe(tokens: &[Token]) -> Result<Pipe, String> {
    let mut rest = tokens;
    let pipe = pipe(&mut rest, 0)?;
    match rest {
        [] => Ok(pipe),
        _ => Err("an unexpected closing parenthesis or sign".to_owned()),
    }
}

fn pipe(tokens: &mut &[Token], depth: usize) -> Result<Pipe, String> {
    if depth > MAX_DEPTH {
        return Err(format!("more than {MAX_DEPTH} parentheses in each other"));
    }
    let mut calls = vec![call(tokens, depth)?];
    while let [Token::Bar, rest @ ..] = *tokens {
        *tokens = rest;
        calls.push(call(tokens, depth)?);
    }
    Ok(calls)
}

fn call(tokens: &mut &[Token], depth: usize) -> Result<Call, String> {
    if let [Token::Word(name), rest @ ..] = *tokens {
        *tokens = rest;
        let mut operands = Vec::new();
        while let Some(operand) = operand(tokens, depth)? {
            operands.push(operand);
        }
        return Ok(Call::Function(name.clone(), operands));
    }
    let value = operand(tokens, depth)?.ok_or("a value is missing")?;
    match operand(tokens, depth)? {
        None => Ok(Call::Value(value)),
        Some(_) => Err("two values beside each other without a function".to_owned()),
    }
}

fn operand(tokens: &mut &[Token], depth: usize) -> Result<Option<Operand>, String> {
    let (operand, rest) = match *tokens {
        [Token::Fields(fields), rest @ ..] => (Operand::Dot(fields.clone()), rest),
        [Token::Variable(name, fields), rest @ ..] => (Operand::Variable(name.clone(), fields.clone()), rest),
        [Token::Literal(value), rest @ ..] => (Operand::Literal(value.clone()), rest),
        [Token::Word(name), rest @ ..] => (Operand::Function(name.clone()), rest),
        [Token::Open, rest @ ..] => {
            let mut inner = rest;
            let pipe = pipe(&mut inner, depth + 1)?;
            match inner {
                [Token::Close(fields), rest @ ..] => (Operand::Group(pipe, fields.clone()), rest),
                _ => return Err("a parenthesis is not closed".to_owned()),
            }
        }
        _ => return Ok(None),
    };
    *tokens = rest;
    Ok(Some(operand))
}
