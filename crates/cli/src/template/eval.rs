//! From a template's tree and data to text.

use serde_json::Value;

use super::function;
use super::parse::{Call, Node, Operand, Pipe};

/// What a field that is not there means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Absent {
    /// A mistake.
    Error,
    /// Nothing, as a condition's answer.
    Null,
}

struct Scope<'a> {
    root: &'a Value,
    variables: Vec<(String, Value)>,
    out: String,
}

pub(super) fn fill(nodes: &[Node], data: &Value) -> Result<String, String> {
    let mut scope = Scope { root: data, variables: Vec::new(), out: String::new() };
    scope.run(nodes, data)?;
    Ok(scope.out)
}

impl Scope<'_> {
    fn run(&mut self, nodes: &[Node], dot: &Value) -> Result<(), String> {
        for node in nodes {
            match node {
                Node::Text(text) => self.out.push_str(text),
                Node::Print(pipe) => {
                    let value = self.pipe(pipe, dot, Absent::Error)?;
                    self.out.push_str(&function::display(&value));
                }
                Node::Assign(name, pipe) => {
                    let value = self.pipe(pipe, dot, Absent::Error)?;
                    self.variables.push((name.clone(), value));
                }
                Node::If(pipe, body, otherwise) => {
                    let value = self.pipe(pipe, dot, Absent::Null)?;
                    self.scoped(if function::truth(&value) { body } else { otherwise }, dot)?;
                }
                Node::With(pipe, body, otherwise) => {
                    let value = self.pipe(pipe, dot, Absent::Null)?;
                    if function::truth(&value) {
                        self.scoped(body, &value)?;
                    } else {
                        self.scoped(otherwise, dot)?;
                    }
                }
                Node::Range(key, item, pipe, body, otherwise) => {
                    let value = self.pipe(pipe, dot, Absent::Error)?;
                    let items: Vec<(Value, Value)> = match value {
                        Value::Array(list) => {
                            list.into_iter().enumerate().map(|(index, item)| (Value::from(index), item)).collect()
                        }
                        Value::Object(map) => map.into_iter().map(|(key, item)| (Value::String(key), item)).collect(),
                        Value::Null => Vec::new(),
                        other => return Err(format!("cannot range over {}", function::display(&other))),
                    };
                    if items.is_empty() {
                        self.scoped(otherwise, dot)?;
                    }
                    for (index, value) in items {
                        let depth = self.variables.len();
                        self.variables.extend(key.clone().map(|name| (name, index)));
                        self.variables.extend(item.clone().map(|name| (name, value.clone())));
                        self.run(body, &value)?;
                        self.variables.truncate(depth);
                    }
                }
            }
        }
        Ok(())
    }

    fn scoped(&mut self, nodes: &[Node], dot: &Value) -> Result<(), String> {
        let depth = self.variables.len();
        self.run(nodes, dot)?;
        self.variables.truncate(depth);
        Ok(())
    }

    fn pipe(&self, pipe: &Pipe, dot: &Value, absent: Absent) -> Result<Value, String> {
        let mut last: Option<Value> = None;
        for call in pipe {
            let value = match call {
                Call::Function(name, operands) => {
                    // `and`, `or` and `not` ask about truth, where absence is an answer.
                    let absent = if ["and", "or", "not"].contains(&name.as_str()) { Absent::Null } else { absent };
                    let mut arguments = operands
                        .iter()
                        .map(|operand| self.operand(operand, dot, absent))
                        .collect::<Result<Vec<_>, _>>()?;
                    arguments.extend(last);
                    function::call(name, &arguments)?
                }
                Call::Value(operand) if last.is_none() => self.operand(operand, dot, absent)?,
                Call::Value(_) => return Err("a function must follow |".to_owned()),
            };
            last = Some(value);
        }
        last.ok_or_else(|| "an empty action".to_owned())
    }

    fn operand(&self, operand: &Operand, dot: &Value, absent: Absent) -> Result<Value, String> {
        match operand {
            Operand::Dot(fields) => walk(dot, fields, absent),
            Operand::Variable(name, fields) if name.is_empty() => walk(self.root, fields, absent),
            Operand::Variable(name, fields) => {
                let found = self.variables.iter().rev().find(|(known, _)| known == name);
                let (_, value) = found.ok_or_else(|| format!("no variable ${name}"))?;
                walk(value, fields, absent)
            }
            Operand::Literal(value) => Ok(value.clone()),
            Operand::Group(pipe, fields) => walk(&self.pipe(pipe, dot, absent)?, fields, absent),
            Operand::Function(name) => function::call(name, &[]),
        }
    }
}

/// Objects whose names are the user's own, where a missing one is no mistake.
const FREE: &[&str] = &["Labels", "Annotations", "Sysctls", "Tmpfs", "Options", "Config", "Ports", "Networks"];

fn walk(value: &Value, fields: &[String], absent: Absent) -> Result<Value, String> {
    let mut at = value;
    for (depth, field) in fields.iter().enumerate() {
        let parent = depth.checked_sub(1).and_then(|index| fields.get(index));
        at = match at.get(field) {
            Some(next) => next,
            None if absent == Absent::Null => return Ok(Value::Null),
            None if at.is_object()
                && parent.is_some_and(|parent| FREE.contains(&parent.as_str()) && !is_struct(at)) =>
            {
                return Ok(Value::Null);
            }
            None => {
                let path = fields.get(..depth).unwrap_or_default().join(".");
                let known: Vec<&str> = at.as_object().into_iter().flatten().map(|(name, _)| name.as_str()).collect();
                let hint = if known.is_empty() { String::new() } else { format!("; there are {}", known.join(", ")) };
                return Err(format!("no field {field:?} in .{path}{hint}"));
            }
        };
    }
    Ok(at.clone())
}

/// Whether an object looks like one of the API's own, in spite of its name: the container's `Config` has a `Cmd`.
fn is_struct(value: &Value) -> bool {
    value.get("Cmd").is_some() || value.get("Env").is_some()
}
