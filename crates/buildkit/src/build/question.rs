//! What clients ask of a Dockerfile without building it: its targets, and what one of them takes.
//!
//! # Source
//! BuildKit's frontend/subrequests: `frontend.lint`, `frontend.outline` and `frontend.targets`, whose answers are JSON under
//! `result.json` and a text under `result.txt`; that of the first one has an exit code under `result.statuscode`, too.

use super::fault::SourceFile;
use super::request::Asked;
use crate::rpc::Status;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use engine::Review;
use engine::image::build::{Graph, Images, Options};
use engine::image::dockerfile::{Argument, Dockerfile, Kind, Mount, Presence, Remark, Span};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// The question whose answer needs images, and what is left out of the context.
pub(super) const CHECK: &str = "frontend.lint";

/// The questions that the file alone answers, sorted.
const QUESTIONS: [(&str, Answer); 3] =
    [("frontend.outline", outline), ("frontend.subrequests.describe", describe), ("frontend.targets", targets)];
/// Of all answers.
const VERSION: &str = "1.0.0";

/// What a question's answer is made of.
type Answer = fn(&Asking<'_>) -> Result<(Value, String), Status>;

/// A question about a file.
struct Asking<'a> {
    file: &'a Dockerfile,
    source: &'a SourceFile,
    asked: &'a Asked,
}

/// Whether there is such a question.
pub(super) fn is_known(name: &str) -> bool {
    name == CHECK || QUESTIONS.iter().any(|(known, _)| *known == name)
}

/// Answers it; the words of the answer by their names.
///
/// # Errors
/// What is wrong with the file or the target, with its place.
pub(super) fn answer(name: &str, source: &SourceFile, asked: &Asked) -> Result<BTreeMap<String, Vec<u8>>, Status> {
    let Some((_, answer)) = QUESTIONS.iter().find(|(known, _)| *known == name) else {
        return Err(Status::told(format!("the front end's request {name:?} is not answered here")));
    };
    let file = Dockerfile::parse(&source.name, &source.text).map_err(|error| Status::told(error.to_string()))?;
    let (json, text) = answer(&Asking { file: &file, source, asked })?;
    Ok(words(&json, text))
}

fn words(json: &Value, text: String) -> BTreeMap<String, Vec<u8>> {
    let words = [("result.json", json.to_string()), ("result.txt", text), ("version", VERSION.to_owned())];
    words.into_iter().map(|(name, value)| (name.to_owned(), value.into_bytes())).collect()
}

/// What checks of the file have found, as the answer to [`CHECK`].
pub(super) fn review(review: &Review, source: &SourceFile) -> BTreeMap<String, Vec<u8>> {
    let remark = |one: &Remark| {
        json!({
            "ruleName": one.check.name(), "description": one.check.about(), "url": one.check.url(),
            "detail": one.detail, "location": location(one.span),
        })
    };
    let remarks: Vec<Value> = review.checked.remarks.iter().map(remark).collect();
    let file = json!({ "filename": source.name, "language": "Dockerfile", "data": STANDARD.encode(&source.text) });
    let is_bad = !remarks.is_empty() || review.fault.is_some();
    let mut json = json!({ "warnings": remarks, "sources": [file] });
    let mut text = review.report.clone();
    if let Some(fault) = &review.fault {
        let mut error = json!({ "message": fault.to_string() });
        if let Some(mark) = fault.mark() {
            error["message"] = mark.what.clone().into();
            error["location"] = location(mark.place.span);
        }
        json["buildError"] = error;
        let _ = writeln!(text, "\n{fault}");
    }
    let mut out = words(&json, text);
    out.insert("result.statuscode".to_owned(), u8::from(is_bad).to_string().into_bytes());
    out
}

/// Which questions there are.
fn describe(_: &Asking<'_>) -> Result<(Value, String), Status> {
    let names = || [CHECK].into_iter().chain(QUESTIONS.iter().map(|(name, _)| *name));
    let one = |name: &str| {
        let answers = ["result.json", "result.txt"].map(|name| json!({ "name": name }));
        json!({ "name": name, "version": VERSION, "type": "rpc", "metadata": answers })
    };
    let mut text = String::from("NAME\tVERSION\n");
    for name in names() {
        let _ = writeln!(text, "{name}\t{VERSION}");
    }
    Ok((names().map(one).collect(), text))
}

/// Where something stands, as answers have it.
fn location(span: Span) -> Value {
    let end = span.last_line.max(span.line);
    json!({ "sourceIndex": 0, "ranges": [{ "start": { "line": span.line }, "end": { "line": end } }] })
}

impl Asking<'_> {
    /// The files' contents.
    fn sources(&self) -> Value {
        json!([STANDARD.encode(&self.source.text)])
    }

    /// What the comment above a line says of a name: `# NAME what it is`.
    fn description(&self, name: &str, span: Span) -> Option<String> {
        let text = String::from_utf8_lossy(&self.source.text);
        let above = usize::try_from(span.line).ok()?.checked_sub(2)?;
        let comment = text.lines().nth(above)?.trim().strip_prefix('#')?.trim();
        let (word, rest) = comment.split_once(char::is_whitespace)?;
        word.eq_ignore_ascii_case(name).then(|| rest.trim().to_owned())
    }
}

/// An object without the fields that are empty.
fn object(fields: Vec<(&str, Option<Value>)>) -> Value {
    fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
}

fn targets(asking: &Asking<'_>) -> Result<(Value, String), Status> {
    let (mut all, mut text) = (Vec::new(), String::from("TARGET\tDESCRIPTION\n"));
    let last = asking.file.stages.len() - 1;
    for (number, stage) in asking.file.stages.iter().enumerate() {
        let is_default = number == last;
        let description = stage.name.as_ref().and_then(|name| asking.description(name, stage.span));
        let name = stage.name.as_deref().unwrap_or_default();
        let note = if is_default { " (default)" } else { "" };
        let _ = writeln!(text, "{name}{note}\t{}", description.as_deref().unwrap_or_default());
        all.push(object(vec![
            ("name", stage.name.clone().map(Value::from)),
            ("default", is_default.then(|| Value::from(true))),
            ("description", description.map(Value::from)),
            ("base", Some(Value::from(stage.base.as_str()))),
            ("platform", stage.platform.clone().map(Value::from)),
            ("location", Some(location(stage.span))),
        ]));
    }
    Ok((json!({ "targets": all, "sources": asking.sources() }), text))
}

fn outline(asking: &Asking<'_>) -> Result<(Value, String), Status> {
    let arguments: BTreeMap<String, String> = asking.asked.group("build-arg:").collect();
    let target = asking.asked.option("target").map(str::to_owned);
    let options = Options { target, arguments, ..Options::default() };
    let graph =
        Graph::resolve(asking.file, &options, &Images::new()).map_err(|error| Status::told(error.to_string()))?;
    let (mut found, mut seen) = (Outline::default(), Vec::new());
    for global in &asking.file.globals {
        found.arguments(asking, &options, &global.names, global.span);
    }
    for instruction in graph.nodes.values().flat_map(|node| &node.instructions) {
        match &instruction.kind {
            Kind::Arg(names) => found.arguments(asking, &options, names, instruction.span),
            Kind::Run(run) => run.mounts.iter().for_each(|mount| seen.push((mount.clone(), instruction.span))),
            _ => {}
        }
    }
    seen.iter().for_each(|(mount, span)| found.mount(mount, *span));
    let stage = &asking.file.stages[graph.target];
    let description = stage.name.as_ref().and_then(|name| asking.description(name, stage.span));
    let text = found.text(stage.name.as_deref().unwrap_or_default(), description.as_deref().unwrap_or_default());
    let list = |list: BTreeMap<String, Value>| (!list.is_empty()).then(|| list.into_values().collect::<Value>());
    let json = object(vec![
        ("name", stage.name.clone().map(Value::from)),
        ("description", description.map(Value::from)),
        ("args", (!found.arguments.is_empty()).then(|| found.arguments.iter().cloned().collect())),
        ("secrets", list(found.secrets)),
        ("ssh", list(found.agents)),
        ("cache", list(found.caches)),
        ("sources", Some(asking.sources())),
    ]);
    Ok((json, text))
}

/// What a target takes.
#[derive(Default)]
struct Outline {
    arguments: Vec<Value>,
    secrets: BTreeMap<String, Value>,
    agents: BTreeMap<String, Value>,
    caches: BTreeMap<String, Value>,
}

impl Outline {
    fn arguments(&mut self, asking: &Asking<'_>, options: &Options, names: &[Argument], span: Span) {
        for argument in names {
            let value = options.arguments.get(&argument.name).or(argument.default.as_ref());
            let known = |one: &Value| one["name"] == argument.name.as_str();
            if self.arguments.iter().any(known) {
                continue;
            }
            self.arguments.push(object(vec![
                ("name", Some(Value::from(argument.name.as_str()))),
                ("description", asking.description(&argument.name, span).map(Value::from)),
                ("value", value.cloned().map(Value::from)),
                ("location", Some(location(span))),
            ]));
        }
    }

    fn mount(&mut self, mount: &Mount, span: Span) {
        let needed = |presence: &Presence| (*presence == Presence::Required).then(|| Value::from(true));
        let one = |id: &str, presence: &Presence| {
            object(vec![
                ("name", Some(Value::from(id))),
                ("required", needed(presence)),
                ("location", Some(location(span))),
            ])
        };
        match mount {
            Mount::Secret { id, presence, .. } => drop(self.secrets.insert(id.clone(), one(id, presence))),
            Mount::Ssh { id, presence, .. } => drop(self.agents.insert(id.clone(), one(id, presence))),
            Mount::Cache { id, .. } => {
                drop(self.caches.insert(id.clone(), json!({ "ID": id, "Location": location(span) })));
            }
            Mount::Bind { .. } | Mount::Tmpfs { .. } => {}
        }
    }

    /// The same for people.
    fn text(&self, name: &str, description: &str) -> String {
        let mut out = String::new();
        if !name.is_empty() {
            let _ = writeln!(out, "TARGET:\t{name}");
        }
        if !description.is_empty() {
            let _ = writeln!(out, "DESCRIPTION:\t{description}");
        }
        let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        if !self.arguments.is_empty() {
            out.push_str("\nBUILD ARG\tVALUE\tDESCRIPTION\n");
            for one in &self.arguments {
                let _ = writeln!(out, "{}\t{}\t{}", word(&one["name"]), word(&one["value"]), word(&one["description"]));
            }
        }
        for (title, list) in [("SECRET", &self.secrets), ("SSH", &self.agents)] {
            if !list.is_empty() {
                let _ = writeln!(out, "\n{title}\tREQUIRED");
            }
            for (id, one) in list {
                let _ = writeln!(out, "{id}\t{}", if one["required"] == true { "true" } else { "" });
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# VERSION which one to fetch\nARG VERSION=1\n# tool makes it\nFROM scratch AS tool\nARG WHO\n\
                        RUN --mount=type=secret,id=key,required=true --mount=type=ssh --mount=type=cache,target=/c x\n\
                        FROM --platform=linux/arm64 base:$VERSION\nARG UNRELATED\n";

    fn ask(name: &str, options: &[(&str, &str)]) -> Result<Value, Status> {
        let options = options.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let asked = Asked::new("dockerfile.v0", options, Vec::new(), false).unwrap();
        let source = SourceFile { name: "Dockerfile".to_owned(), text: TEXT.as_bytes().to_vec() };
        let words = answer(name, &source, &asked)?;
        assert_eq!(words["version"], b"1.0.0");
        Ok(serde_json::from_slice(&words["result.json"]).unwrap())
    }

    #[test]
    fn targets_are_listed() {
        let said = ask("frontend.targets", &[]).unwrap();
        assert_eq!(said["targets"][0]["name"], "tool");
        assert_eq!(said["targets"][0]["description"], "makes it");
        assert_eq!(said["targets"][0]["location"]["ranges"][0]["start"]["line"], 4);
        let last = &said["targets"][1];
        assert_eq!(
            (&last["default"], &last["platform"], &last["base"]),
            (&true.into(), &"linux/arm64".into(), &"base:$VERSION".into())
        );
        assert!(last.get("name").is_none());
    }

    #[test]
    fn a_target_is_outlined() {
        let said = ask("frontend.outline", &[("target", "tool"), ("build-arg:WHO", "me")]).unwrap();
        assert_eq!((&said["name"], &said["description"]), (&"tool".into(), &"makes it".into()));
        let args = said["args"].as_array().unwrap();
        assert_eq!((&args[0]["name"], &args[0]["value"]), (&"VERSION".into(), &"1".into()));
        assert_eq!(args[0]["description"], "which one to fetch");
        assert_eq!((args.len(), &args[1]["value"]), (2, &"me".into()));
        assert_eq!((&said["secrets"][0]["name"], &said["secrets"][0]["required"]), (&"key".into(), &true.into()));
        assert_eq!(said["ssh"][0]["name"], "default");
        assert_eq!(said["cache"][0]["ID"], "/c");
        assert!(ask("frontend.outline", &[("target", "tol")]).is_err());
        assert!(ask("frontend.weather", &[]).is_err());
        let said = ask("frontend.subrequests.describe", &[]).unwrap();
        assert_eq!((&said[0]["name"], said.as_array().unwrap().len()), (&CHECK.into(), 4));
    }

    #[test]
    fn remarks_have_places_and_an_exit_code() {
        let source = SourceFile { name: "Dockerfile".to_owned(), text: b"FROM a AS B\n".to_vec() };
        let file = Dockerfile::parse(&source.name, &source.text).unwrap();
        let checked = engine::image::build::check(&file, &Options::default(), &Images::new(), None).unwrap();
        let report = checked.report(&file);
        let answer = review(&Review { checked, report, fault: None }, &source);
        let said: Value = serde_json::from_slice(&answer["result.json"]).unwrap();
        assert_eq!(said["warnings"][0]["ruleName"], "StageNameCasing");
        assert_eq!(said["warnings"][0]["location"]["ranges"][0]["start"]["line"], 1);
        assert_eq!(answer["result.statuscode"], b"1");
        assert!(answer["result.txt"].starts_with(b"\nWARNING: StageNameCasing - https://"));
        let wrong = engine::EngineError::invalid("no such stage");
        let answer = review(&Review { fault: Some(wrong), ..Review::default() }, &source);
        let said: Value = serde_json::from_slice(&answer["result.json"]).unwrap();
        assert_eq!((&said["buildError"]["message"], &said["warnings"]), (&"no such stage".into(), &json!([])));
    }
}
