//! The words of the kernel's command line that are meant for the first program.

/// What the command line says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct CommandLine {
    /// Where the root is.
    pub(crate) root: Option<String>,
    /// The file system's type.
    pub(crate) kind: Option<String>,
    /// The file system's own options.
    pub(crate) options: String,
    /// `ro` or `rw`, the last one said.
    pub(crate) writable: Option<Writable>,
    /// The disk that takes what is written to layers.
    pub(crate) upper: Option<String>,
    /// The program that runs.
    pub(crate) init: Option<String>,
    /// Its arguments: what stands behind `--`.
    pub(crate) arguments: Vec<String>,
}

/// Whether the root may be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Writable {
    Yes,
    No,
}

/// Words, in which a part in quotes may have spaces.
fn words(text: &str) -> Vec<String> {
    let (mut words, mut word, mut quoted) = (Vec::new(), String::new(), false);
    for c in text.chars() {
        match c {
            '"' => quoted = !quoted,
            c if c.is_whitespace() && !quoted => words.push(std::mem::take(&mut word)),
            c => word.push(c),
        }
    }
    words.push(word);
    words.retain(|word| !word.is_empty());
    words
}

impl CommandLine {
    pub(crate) fn parse(text: &str) -> Self {
        let mut line = Self::default();
        let mut words = words(text).into_iter();
        for word in words.by_ref() {
            match word.split_once('=').unwrap_or((word.as_str(), "")) {
                ("root", value) => line.root = Some(value.to_owned()),
                ("rootfstype", value) => line.kind = Some(value.to_owned()),
                ("rootflags", value) => line.options = value.to_owned(),
                ("insula.upper", value) => line.upper = Some(value.to_owned()),
                ("init", value) => line.init = Some(value.to_owned()),
                ("ro", "") => line.writable = Some(Writable::No),
                ("rw", "") => line.writable = Some(Writable::Yes),
                ("single" | "s" | "S" | "1" | "emergency", "") => line.arguments.push(word),
                ("--", "") => break,
                _ => {}
            }
        }
        line.arguments.extend(words);
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_for_us_are_found() {
        let line =
            CommandLine::parse("console=ttyS0 root=/dev/vda rootflags=\"a b\" ro rw init=/bin/sh quiet -- -c ls\n");
        let expect = CommandLine {
            root: Some("/dev/vda".to_owned()),
            options: "a b".to_owned(),
            writable: Some(Writable::Yes),
            init: Some("/bin/sh".to_owned()),
            arguments: vec!["-c".to_owned(), "ls".to_owned()],
            ..CommandLine::default()
        };
        assert_eq!(line, expect);
        assert_eq!(CommandLine::parse(""), CommandLine::default());
        assert_eq!(CommandLine::parse("root=UUID=1-2").root.as_deref(), Some("UUID=1-2"));
        assert_eq!(CommandLine::parse("single ro").writable, Some(Writable::No));
    }
}
