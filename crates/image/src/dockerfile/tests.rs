//! The parser from outside.

use proptest::prelude::*;

use super::*;

fn parse(text: &str) -> Dockerfile {
    Dockerfile::parse("Dockerfile", text.as_bytes()).unwrap_or_else(|error| panic!("{error}"))
}

fn first(line: &str) -> Kind {
    parse(&format!("FROM scratch\n{line}\n")).stages[0].instructions[0].kind.clone()
}

fn error(text: &str) -> String {
    Dockerfile::parse("Dockerfile", text.as_bytes()).map(|_| ()).unwrap_err().to_string()
}

fn strings<const N: usize>(words: [&str; N]) -> Vec<String> {
    words.map(str::to_owned).to_vec()
}

#[test]
fn directives_stand_at_the_top() {
    let file = parse("# Syntax = docker/dockerfile:1\n# escape=`\n# check=skip=all\nFROM a\nRUN x `\n  y\n");
    assert_eq!(file.directives.syntax.as_deref(), Some("docker/dockerfile:1"));
    assert_eq!((file.directives.escape, file.directives.check.as_deref()), ('`', Some("skip=all")));
    assert_eq!(file.stages[0].instructions[0].text, "RUN x   y");
    // behind a comment, another word or an instruction it is a comment
    for text in ["# hello\n# escape=`\nFROM a\n", "# other=1\n# escape=`\nFROM a", "\n# escape=`\nFROM a"] {
        assert_eq!(parse(text).directives.escape, '\\', "{text}");
    }
    assert!(error("# escape=x\nFROM a").contains("1:1: the escape character \"x\""));
    assert!(error("# escape=`\n# escape=`\nFROM a").contains("a second time"));
}

#[test]
fn lines_are_joined_and_comments_inside_go() {
    let file = parse("\u{feff}FROM a\r\nRUN one \\\r\n  # why\r\n\r\n  two \\\n three\nRUN end \\\\\nUSER x \\\n");
    let texts: Vec<_> = file.stages[0].instructions.iter().map(|instruction| instruction.text.as_str()).collect();
    assert_eq!(texts[..2], ["RUN one   two  three", "RUN end \\\\"]);
    assert!(file.stages[0].instructions[0].span.last_line == 6);
}

#[test]
fn heredocs_of_every_form() {
    let Kind::Run(run) = first("RUN <<EOF cat - <<-'B C'\none\nEOF\n\ttwo\n\tB C\nUSER x") else { panic!() };
    assert_eq!(run.command, Command::Shell("<<EOF cat - <<-'B C'".into()));
    assert_eq!((run.heredocs[0].contents.as_str(), run.heredocs[0].expand), ("one\n", Expansion::Yes));
    assert_eq!((run.heredocs[1].name.as_str(), run.heredocs[1].expand), ("B C", Expansion::No));
    assert_eq!(run.heredocs[1].text(), "two\n");
    let Kind::Copy(copy) = first("COPY <<a <<\"b\" c /d/\nA\na\nB\nb") else { panic!() };
    assert_eq!(copy.sources.len(), 3);
    assert!(matches!(&copy.sources[1], TransferSource::Inline(doc) if doc.expand == Expansion::No && doc.name == "b"));
    let Kind::OnBuild(text) = first("ONBUILD RUN <<E\nhi\nE") else { panic!() };
    assert_eq!(text, "RUN <<E\nhi\nE");
    assert!(matches!(Dockerfile::parse_trigger(&text).unwrap().kind, Kind::Run(run) if run.heredocs.len() == 1));
    let Kind::Run(run) = first("RUN echo '<<EOF' $((1<<2)) \"<<X\"") else { panic!() };
    assert!(run.heredocs.is_empty(), "{:?}", run.heredocs);
    let message = error("FROM a\nRUN <<EOF\nx\n");
    assert!(
        message.contains("2:1: the here-document \"EOF\" has no end") && message.contains("help: a line"),
        "{message}"
    );
}

#[test]
fn every_instruction() {
    assert_eq!(first("cmd [\"a\", \"b\"]"), Kind::Cmd(Command::Exec(strings(["a", "b"]))));
    assert_eq!(first("CMD ['a']"), Kind::Cmd(Command::Shell("['a']".into())));
    assert_eq!(first("Entrypoint exec top -b"), Kind::Entrypoint(Command::Shell("exec top -b".into())));
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    assert_eq!(
        first("ENV A=1 B=\"2 3\" C=4\\ 5"),
        Kind::Env(vec![pair("A", "1"), pair("B", "\"2 3\""), pair("C", "4\\ 5")])
    );
    assert_eq!(first("ENV A some  words "), Kind::Env(vec![pair("A", "some  words")]));
    assert_eq!(first("LABEL \"a b\"=c"), Kind::Label(vec![pair("\"a b\"", "c")]));
    assert_eq!(first("EXPOSE 80 $P/udp"), Kind::Expose(strings(["80", "$P/udp"])));
    assert_eq!(first("VOLUME /a /b"), Kind::Volume(strings(["/a", "/b"])));
    assert_eq!(first("VOLUME [\"/a b\"]"), Kind::Volume(strings(["/a b"])));
    assert_eq!(first("SHELL [\"/bin/bash\", \"-c\"]"), Kind::Shell(strings(["/bin/bash", "-c"])));
    assert_eq!(first("WORKDIR /a b"), Kind::Workdir("/a b".into()));
    assert_eq!(first("USER a:b"), Kind::User("a:b".into()));
    assert_eq!(first("STOPSIGNAL SIGINT"), Kind::StopSignal("SIGINT".into()));
    assert_eq!(first("MAINTAINER me <a@b>"), Kind::Maintainer("me <a@b>".into()));
    let argument =
        |name: &str, default: Option<&str>| Argument { name: name.into(), default: default.map(str::to_owned) };
    assert_eq!(first("ARG A B=2"), Kind::Arg(vec![argument("A", None), argument("B", Some("2"))]));
    assert_eq!(first("ONBUILD  run make"), Kind::OnBuild("run make".into()));
}

#[test]
fn flags_of_copy_and_run() {
    let line = "ADD --chown=a:b --chmod=u+x --link --keep-git-dir=true --checksum=sha256:00 --exclude=*.o --exclude=x \
                --unpack=false [\"a b\", \"/c/\"]";
    let Kind::Add(add) = first(line) else { panic!() };
    assert_eq!((add.link, add.keep_git_dir, add.unpack), (Link::Yes, GitDir::Keep, Some(Unpack::No)));
    assert_eq!((add.exclude.len(), add.destination.as_str()), (2, "/c/"));
    assert_eq!(add.sources, [TransferSource::Path("a b".into())]);
    let Kind::Copy(copy) = first("COPY --from=build --parents --link=false a/b c/") else { panic!() };
    assert_eq!((copy.from.as_deref(), copy.parents, copy.link), (Some("build"), Parents::Keep, Link::No));
    let Kind::Run(run) =
        first("RUN --mount=type=tmpfs,target=/t --mount=target=/s --network=none --security=insecure make")
    else {
        panic!()
    };
    assert_eq!((run.mounts.len(), run.network, run.security), (2, NetworkMode::None, SecurityMode::Insecure));
    let Kind::Healthcheck(health) = first("HEALTHCHECK --interval=1m --retries=5 --start-period=2s CMD curl -f x")
    else {
        panic!()
    };
    assert_eq!((health.test, health.retries), (strings(["CMD-SHELL", "curl -f x"]), Some(5)));
    assert_eq!(
        first("HEALTHCHECK NONE"),
        Kind::Healthcheck(Healthcheck { test: strings(["NONE"]), ..Default::default() })
    );
    let Kind::Cmd(command) = first("CMD -- --help") else { panic!() };
    assert_eq!(command, Command::Shell("--help".into()));
}

#[test]
fn stages_and_globals() {
    let file = parse("ARG V=1\nFROM --platform=$BUILDPLATFORM img:$V aS Build\nRUN x\nfrom build\n");
    assert_eq!(file.globals[0].names[0].name, "V");
    assert_eq!(file.stages[0].name.as_deref(), Some("build"));
    assert_eq!((file.stages[0].platform.as_deref(), file.stages[1].base.as_str()), (Some("$BUILDPLATFORM"), "build"));
}

#[test]
fn an_error_points_at_its_place() {
    let text = "FROM a\nRUN x \\\n   && y\n  RNU z\n";
    let expected = "Dockerfile:4:3: unknown instruction \"RNU\"\n  4 |   RNU z\n    |   ^~~\n  help: did you mean RUN?";
    assert_eq!(error(text), expected);
    let expected = "Dockerfile:3:3: COPY has no flag --chwon\n  3 |   --chwon=1 a b\n    |   ^~~~~~~~~\n  help: did you mean --chown?";
    assert_eq!(error("FROM a\nCOPY \\\n  --chwon=1 a b\n"), expected);
}

#[test]
fn everything_wrong_is_named() {
    for (text, expected) in [
        ("", "1:1: file with no instructions"),
        ("# only\n", "no instructions"),
        ("ARG A\n", "no FROM"),
        ("RUN x\nFROM a", "RUN stands before the first FROM"),
        ("FROM", "FROM needs an image"),
        ("FROM a b", "FROM needs an image"),
        ("FROM a AS 1x", "\"1x\" is no name for a stage"),
        ("FROM a\nCOPY a", "COPY needs one source"),
        ("FROM a\nCOPY --from a b", "needs a value"),
        ("FROM a\nCOPY --from=x --from=y a b", "stands there twice"),
        ("FROM a\nCOPY [\"a\", 1]", "texts only"),
        ("FROM a\nCMD [\"a\", 1]", "texts only"),
        ("FROM a\nCMD --x", "CMD has no flag --x"),
        ("FROM a\nENV A", "ENV needs a name and a value"),
        ("FROM a\nENV A=1 B", "\"B\" is not of the form"),
        ("FROM a\nENV =1", "must not be empty"),
        ("FROM a\nARG", "ARG needs"),
        ("FROM a\nRUN", "RUN needs"),
        ("FROM a\nRUN --network=lan x", "default host none"),
        ("FROM a\nRUN --mount=type=disk x", "bind cache secret ssh tmpfs"),
        ("FROM a\nSHELL bash", "SHELL needs a list"),
        ("FROM a\nVOLUME []", "VOLUME needs"),
        ("FROM a\nHEALTHCHECK", "HEALTHCHECK needs CMD"),
        ("FROM a\nHEALTHCHECK --interval=1 CMD x", "a time such as"),
        ("FROM a\nHEALTHCHECK NONE x", "nothing else"),
        ("FROM a\nONBUILD ONBUILD RUN x", "cannot be a trigger"),
        ("FROM a\nONBUILD FROM x", "cannot be a trigger"),
        ("FROM a\nONBUILD RNU x", "did you mean RUN"),
        ("FROM a\nWORKDIR", "WORKDIR needs"),
    ] {
        assert!(error(text).contains(expected), "{text:?}: {}", error(text));
    }
    let bytes = b"FROM a\n# caf\xe9\nRUN caf\xe9\n";
    let message = Dockerfile::parse("D", bytes).unwrap_err().to_string();
    assert!(message.starts_with("D:3:1: the line has bytes that are no UTF-8"), "{message}");
}

#[test]
fn limits_hold() {
    let check = |text: String, expected: &str| assert!(error(&text).contains(expected), "{}", error(&text));
    check("# x\n".repeat(limits::FILE_BYTES / 4 + 1), "the file's bytes");
    check(format!("FROM a\nRUN {}", "x".repeat(limits::LINE_BYTES)), "2:1: the line's bytes");
    check(format!("FROM a\n{}", "USER a\n".repeat(limits::INSTRUCTIONS)), "instructions of the file");
    check("FROM a\n".repeat(limits::STAGES + 1), "stages of the file");
    let heredocs =
        format!("FROM a\nRUN{}\n{}", " <<E".repeat(limits::HEREDOCS + 1), "E\n".repeat(limits::HEREDOCS + 1));
    check(heredocs, "here-documents of the file");
    check(format!("FROM a\nRUN {}x", "--mount=type=ssh ".repeat(limits::MOUNTS + 1)), "mounts of one RUN");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Any bytes give a file or an error that can be shown.
    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        if let Err(error) = Dockerfile::parse("Dockerfile", &bytes) {
            prop_assert!(!error.to_string().is_empty());
        }
    }

    /// Words that mean something, in any order.
    #[test]
    fn no_words_panic(words in proptest::collection::vec(prop::sample::select(vec![
        "FROM", "RUN", "COPY", "ADD", "ENV", "ONBUILD", "HEALTHCHECK", "a", "=", "\"", "'", "\\", "\n", " ", "<<E", "E\n", "--from=",
        "--mount=type=", "cache,", "[", "]", "${", "}", ":-", "#", "é", "\t", "--", "$A", "`", "\\\n", ",",
    ]), 0..60)) {
        let text = words.concat();
        if let Err(error) = Dockerfile::parse("Dockerfile", text.as_bytes()) {
            prop_assert!(!error.to_string().is_empty());
        }
        let values = std::collections::BTreeMap::from([("A".to_owned(), "a b".to_owned())]);
        drop(Expander::new(&values, '\\').words(&text));
    }
}
