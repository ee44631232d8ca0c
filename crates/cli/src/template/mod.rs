//! Go's templates, as far as `--format` uses them: fields, `json`, `index`, `len`, `range`, `if`, `with`, comparison, variables.
//!
//! ```text
//! template := (text | "{{" action "}}")*          "{{-" and "-}}" take the white space beside them away
//! action   := "if" pipe | "range" ["$k," "$v" ":="] pipe | "with" pipe | "else" ["if" pipe] | "end" | "$x :=" pipe | pipe
//! pipe     := call ("|" call)*
//! call     := function operand* | operand
//! operand  := "." | ".A.B" | "$" | "$x.A" | "text" | 12 | true | "(" pipe ")" [".A"]
//! ```

mod eval;
mod function;
mod parse;

use serde_json::Value;

use self::parse::Node;

/// A template that was understood.
#[derive(Debug)]
pub(crate) struct Template {
    nodes: Vec<Node>,
}

impl Template {
    /// Reads a template; the word `json` alone means `{{json .}}`.
    ///
    /// # Errors
    /// What is wrong, or not supported.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let text = if text == "json" { "{{json .}}" } else { text };
        let nodes = parse::template(text).map_err(|why| format!("bad template {text:?}: {why}"))?;
        Ok(Self { nodes })
    }

    /// Fills in the template.
    ///
    /// # Errors
    /// A field that is not there, or a function that cannot work on what it gets.
    pub(crate) fn fill(&self, data: &Value) -> Result<String, String> {
        eval::fill(&self.nodes, data)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn fill(template: &str) -> Result<String, String> {
        let data = json!({
            "Id": "abc", "Name": "/web", "State": {"ExitCode": 3, "OOMKilled": false, "Running": true},
            "Config": {"Env": ["A=1", "B=2"], "Labels": {"a": "1", "b.c": "<2>"}}, "Mounts": [{"Source": "/x"}, {"Source": "/y"}],
            "Nothing": null, "Size": 1.5,
        });
        Template::parse(template)?.fill(&data)
    }

    #[test]
    fn templates_fill_as_in_go() {
        let check = |template: &str, expect: &str| assert_eq!(fill(template).as_deref(), Ok(expect), "{template}");
        check("plain", "plain");
        check("{{.Id}} {{ .State.ExitCode }}", "abc 3");
        check("{{json .State}}", r#"{"ExitCode":3,"OOMKilled":false,"Running":true}"#);
        check("{{.Config.Labels | json}}", r#"{"a":"1","b.c":"<2>"}"#);
        check("{{index .Config.Labels \"b.c\"}}", "<2>");
        check("{{index .Config.Labels \"none\"}}", "");
        check("{{.Config.Labels.none}}", "<no value>");
        check("{{index .Config.Env 1}}", "B=2");
        check("{{(index .Mounts 0).Source}}", "/x");
        check("{{range .Mounts}}{{.Source}};{{end}}", "/x;/y;");
        check("{{range $i, $m := .Mounts}}{{$i}}={{$m.Source}} {{$.Id}},{{end}}", "0=/x abc,1=/y abc,");
        check("{{range $k, $v := .Config.Labels}}{{$k}}:{{$v}} {{end}}", "a:1 b.c:<2> ");
        check("{{range .Nothing}}x{{else}}none{{end}}", "none");
        check("{{if .State.Running}}up{{else}}down{{end}}", "up");
        check("{{if .State.OOMKilled}}oom{{else if eq .State.ExitCode 3}}three{{else}}other{{end}}", "three");
        check("{{if .State.Health}}h{{else}}no{{end}}", "no");
        check("{{with .State}}{{.ExitCode}}{{end}}", "3");
        check("{{len .Config.Env}} {{len .Id}}", "2 3");
        check("{{println .Id}}", "abc\n");
        check("{{printf \"%s-%d-%q %v%%\" .Id .State.ExitCode .Name .State.Running}}", "abc-3-\"/web\" true%");
        check("{{printf \"%.4s|%6s|%-6s|%03d\" .Name .Id .Id 7}}", "/web|   abc|abc   |007");
        check("{{join .Config.Env \", \"}}", "A=1, B=2");
        check("{{upper .Id}} {{lower \"X\"}} {{title \"ab\"}}", "ABC x Ab");
        check("{{slice .Id 1 2}}", "b");
        check("{{if and .Id (not .State.OOMKilled)}}y{{end}}{{if or .Nothing .Id}}z{{end}}", "yz");
        check("{{if gt .State.ExitCode 2}}gt{{end}}{{if ne .Id \"x\"}}ne{{end}}", "gtne");
        check("a  {{- .Id -}}  b", "aabcb");
        check("{{/* note */}}x", "x");
        check("{{$x := .Id}}{{$x}}", "abc");
        check("{{.Config.Env}} {{.Config.Labels}} {{.Nothing}}", "[A=1 B=2] map[a:1 b.c:<2>] <no value>");
        check("{{.Size}} {{true}} {{12}} {{`raw`}}", "1.5 true 12 raw");
        check("{{split .Config.Env \"x\" | len}}", "1");
    }

    #[test]
    fn mistakes_are_explained() {
        let check = |template: &str, part: &str| {
            let error = fill(template).unwrap_err();
            assert!(error.contains(part), "{template}: {error}");
        };
        check("{{.Stat.ExitCode}}", "no field \"Stat\"");
        check("{{.State.Exit}}", "no field \"Exit\" in .State");
        check("{{.Id.X}}", "no field \"X\"");
        check("{{.Id", "not closed");
        check("{{if .Id}}x", "no {{end}}");
        check("{{end}}", "{{end}}");
        check("{{call .Id}}", "no function \"call\"");
        check("{{template \"x\"}}", "not supported");
        check("{{}}", "empty");
        check("{{index .Config.Env 7}}", "out of range");
        check("{{$y}}", "no variable $y");
        check("{{json}}", "json");
        check("{{\"a}}", "not closed");
        check("{{len .State.Running}}", "len");
    }

    #[test]
    fn deep_nesting_is_refused() {
        let deep = format!("{}x{}", "{{if .Id}}".repeat(2000), "{{end}}".repeat(2000));
        assert!(fill(&deep).is_err());
        let deep = format!("{{{{{}.Id{}}}}}", "(".repeat(5000), ")".repeat(5000));
        assert!(fill(&deep).is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// Noise, and words of the language in any order: filled in or explained, never a panic.
        #[test]
        fn any_text_is_filled_or_explained(
            noise in "[{}.$|()\"`%é \\\\-]{0,40}|\\PC{0,40}",
            words in proptest::collection::vec(
                prop_oneof![
                    Just("{{"), Just("}}"), Just("{{-"), Just("-}}"), Just("."), Just("$"), Just(".Id"), Just(".Config.Env"),
                    Just("$x"), Just(":="), Just(","), Just("|"), Just("("), Just(")"), Just("if"), Just("else"), Just("end"),
                    Just("range"), Just("with"), Just("index"), Just("slice"), Just("printf"), Just("\"%-09.3f%q%x\""),
                    Just("json"), Just("len"), Just("pad"), Just("truncate"), Just("split"), Just("-1"), Just("99999999999999999999"),
                    Just("1.5"), Just("\"é\""), Just("`"), Just("/*"), Just("*/"), Just("true"), Just("nil"), Just("eq"), Just("lt"),
                ],
                0..12,
            ),
        ) {
            let inside = words.join(" ");
            for text in [&noise, &inside, &format!("{{{{{inside}}}}}"), &format!("{{{{ {noise} }}}}{{{{{inside}}}}}{{{{end}}}}")] {
                if let Err(why) = fill(text) {
                    prop_assert!(!why.is_empty());
                }
            }
        }
    }
}
