//! Builds with programs in them: what steps see, what the cache does, how builds end early.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use rustix::process::Signal;
use testkit::wait_for;

use crate::subject::{Run, SOON, Subject, finish, skip_unless_insula};

/// A subject with a context folder and a Dockerfile in it.
fn prepared(text: &str) -> Option<(Subject, String)> {
    if skip_unless_insula() {
        return None;
    }
    let subject = Subject::start()?;
    let context = subject.island.dir("context");
    fs::write(context.join("Dockerfile"), text).unwrap();
    fs::write(context.join("file"), "one\n").unwrap();
    Some((subject, context.display().to_string()))
}

fn build(subject: &Subject, options: &[&str], context: &str) -> Run {
    subject.insula(&[&["build", "--progress", "plain"][..], options, &[context]].concat())
}

/// What the store has in the making.
fn unfinished(subject: &Subject) -> Vec<String> {
    let folders = ["state/images/tmp", "run/shim"];
    let entries = folders.iter().flat_map(|folder| fs::read_dir(subject.island.path(folder)).into_iter().flatten());
    entries.map(|entry| entry.unwrap().path().display().to_string()).collect()
}

#[track_caller]
fn assert_nothing_unfinished(subject: &Subject) {
    let gone = wait_for(SOON, || unfinished(subject).is_empty().then_some(()));
    assert!(gone.is_some(), "left: {:?}", unfinished(subject));
}

#[test]
fn steps_see_what_they_are_given() {
    let text = "FROM test:1 AS base
ARG V=1
ENV E=env
WORKDIR /work
COPY file in/
RUN echo $V $E $(cat in/file) $(pwd) > out
FROM test:1 AS other
RUN mkdir -p /o && echo other > /o/file
FROM base
RUN --mount=type=secret,id=s --mount=type=secret,id=s,env=TOKEN cat /run/secrets/s && echo token=$TOKEN && ls /run
RUN --mount=type=cache,target=/cache,uid=7,mode=0700 stat -c '%a %u' /cache; echo x >> /cache/log; wc -l < /cache/log > lines
RUN --mount=type=bind,target=/ctx --mount=type=bind,from=other,source=/o,target=/o,rw cat /ctx/file /o/file > bound; echo z > /o/new
RUN --mount=type=tmpfs,target=/t,size=1m echo a > /t/a && ls /t
RUN <<END
#!/bin/sh
echo script \"$0\" > script
END
RUN <<A cat > here
from here
A
RUN ls /ctx /o /t 2> gone || true
RUN --network=none cat /proc/net/dev | wc -l > devices
";
    let Some((subject, context)) = prepared(text) else { return };
    let secret = subject.island.file("secret", "s3cret");
    let given = format!("id=s,src={}", secret.display());
    let first = build(&subject, &["--secret", &given, "--build-arg", "V=7", "-t", "made"], &context).expect(0);
    assert!(first.err.contains("s3cret") && first.err.contains("token=s3cret"), "{}", first.err);
    assert!(first.err.contains("700 7"), "{}", first.err);
    let show = |words: &[&str]| {
        subject.insula(&[&["run", "--rm", "--network", "none", "made"][..], words].concat()).expect(0).out
    };
    assert_eq!(show(&["cat", "out", "bound", "here"]), "7 env one /work\none\nother\nfrom here\n");
    assert_eq!(show(&["cat", "script"]), "script /dev/pipes/END\n");
    assert_eq!(show(&["cat", "lines"]).trim(), "1");
    assert_eq!(show(&["cat", "devices"]).trim(), "3", "two lines of headings and lo");
    // neither secrets nor mount points stay
    assert_eq!(show(&["cat", "gone"]).lines().count(), 3, "{}", show(&["cat", "gone"]));
    let all = show(&["sh", "-c", "ls -d /run/secrets /cache /ctx /o /t 2>/dev/null; true"]);
    assert_eq!(all, "");
    // the cache outlives the build, and a step that runs anew sees it
    build(&subject, &["--secret", &given, "--no-cache", "-t", "made"], &context).expect(0);
    assert_eq!(show(&["cat", "lines"]).trim(), "2");
    // what is not given is not there
    let none = build(&subject, &["--no-cache"], &context).expect(1);
    assert!(!none.err.contains("s3cret"), "{}", none.err);
    assert_nothing_unfinished(&subject);
    subject.finish();
}

/// As images often are: steps that change nothing have the same layer, and so do steps that do the same.
#[test]
fn layers_may_be_there_twice_or_not_at_all() {
    let text = "FROM test:1 AS one
RUN echo 1 > /hello
FROM test:1 AS two
RUN echo 2 > /hello
FROM test:1
RUN true
RUN true
RUN true
COPY file /twice
COPY file /twice
RUN ln -s gone /link
COPY file /link/deep/
RUN --mount=type=cache,id=c,from=one,target=/c cat /c/hello > /said
RUN --mount=type=cache,id=c,from=two,target=/c cat /c/hello >> /said
";
    let Some((subject, context)) = prepared(text) else { return };
    build(&subject, &["-t", "made"], &context).expect(0);
    let said = ["run", "--rm", "--network", "none", "made", "cat", "said", "twice", "gone/deep/file"];
    assert_eq!(subject.insula(&said).expect(0).out, "1\n2\none\none\n");
    let path = |name: &str| subject.island.path(name).display().to_string();
    build(&subject, &["-o", &format!("type=tar,dest={}", path("tree.tar"))], &context).expect(0);
    let listed = finish(std::process::Command::new("tar").args(["-tf", &path("tree.tar")]), b"").expect(0);
    assert!(listed.out.lines().any(|line| line.ends_with("gone/deep/file")), "{}", listed.out);
    // also when it comes from elsewhere
    subject.insula(&["save", "-o", &path("made.tar"), "made"]).expect(0);
    subject.insula(&["rmi", "-f", "made"]).expect(0);
    subject.insula(&["load", "-i", &path("made.tar")]).expect(0);
    assert_eq!(subject.insula(&said).expect(0).out, "1\n2\none\none\n");
    // without layers, and with the folder of a user that is not there
    for (text, files) in [("FROM scratch\nUSER 7\n", ""), ("FROM scratch\nUSER someone\nWORKDIR /w\n", "w")] {
        fs::write(subject.island.path("context/Dockerfile"), text).unwrap();
        build(&subject, &["-o", &format!("type=tar,dest={}", path("few.tar"))], &context).expect(0);
        let listed = finish(std::process::Command::new("tar").args(["-tf", &path("few.tar")]), b"").expect(0);
        let names = listed.out.lines().map(|line| line.trim_matches(['.', '/']));
        assert_eq!(names.collect::<String>(), files, "{}", listed.out);
    }
    assert_nothing_unfinished(&subject);
    subject.finish();
}

#[test]
fn what_was_done_is_not_done_again() {
    let text = "FROM test:1 AS tool
RUN echo tool > /tool && date +%N > /random
FROM test:1
COPY file /a/
RUN date +%N > /now
COPY --from=tool /tool /tool
RUN echo end
";
    let Some((subject, context)) = prepared(text) else { return };
    let id = |options: &[&str]| build(&subject, options, &context).expect(0);
    let first = id(&[]);
    let second = id(&[]);
    assert_eq!(first.text(), second.text());
    assert_eq!(second.err.matches("CACHED").count(), 4, "{}", second.err);
    // times of files do not count, contents and modes do
    let file = subject.island.path("context/file");
    let touched = fs::File::options().write(true).open(&file).unwrap();
    touched.set_modified(std::time::UNIX_EPOCH + Duration::from_secs(86400)).unwrap();
    assert_eq!(id(&[]).text(), first.text());
    fs::write(&file, "two\n").unwrap();
    let third = id(&[]);
    assert_ne!(third.text(), first.text());
    assert_eq!(third.err.matches("CACHED").count(), 1, "the whole stage is behind the change: {}", third.err);
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
    assert_ne!(id(&[]).text(), third.text());
    // a stage that is built anew and gives the same files costs those after it nothing
    fs::write(subject.island.path("context/Dockerfile"), text.replace("echo tool >", "true && echo tool >")).unwrap();
    let fourth = id(&[]);
    assert_eq!(fourth.err.matches("CACHED").count(), 4, "{}", fourth.err);
    // the daemon's end changes nothing
    let mut subject = subject;
    subject.end_daemon(Signal::TERM);
    subject.start_daemon();
    let again = build(&subject, &[], &context).expect(0);
    assert_eq!(again.err.matches("CACHED").count(), 4, "{}", again.err);
    let before = subject.insula(&["builder", "prune", "-af"]).expect(0);
    assert!(before.out.contains("reclaimed"), "{}", before.out);
    assert!(!build(&subject, &[], &context).expect(0).err.contains("CACHED"));
    subject.finish();
}

#[test]
fn the_same_input_gives_the_same_image() {
    let text = "FROM scratch AS plain
COPY file /a/b/
ADD https://127.0.0.1:1/nothing /never
FROM test:1
WORKDIR /w
COPY file .
RUN mkdir d && echo x > d/x && ln d/x d/y && rm -rf /tmp && mkdir -m 1777 /tmp
COPY <<END here
here
END
";
    let text = text.replace("ADD https://127.0.0.1:1/nothing /never\n", "");
    let Some((subject, context)) = prepared(&text) else { return };
    let build = |options: &[&str]| {
        let words = [&["build", "--progress", "plain", "--no-cache"][..], options, &[&context]].concat();
        let mut command = subject.command(&words);
        finish(command.env("SOURCE_DATE_EPOCH", "1700000000"), b"").expect(0).out
    };
    let first = build(&[]);
    // another second, and another time of the file
    std::thread::sleep(Duration::from_millis(1100));
    fs::write(subject.island.path("context/file"), "one\n").unwrap();
    assert_eq!(build(&[]), first);
    assert_eq!(build(&["--squash"]), build(&["--squash"]));
    assert_eq!(subject.field(first.trim(), "{{.Created}}"), "2023-11-14T22:13:20Z");
    subject.finish();
}

#[test]
fn one_layer_is_the_same_as_many() {
    let text = "FROM test:1
RUN mkdir -p /d/e /f && echo 1 > /d/e/1 && echo 2 > /d/2 && ln /d/2 /d/3 && ln -s 2 /d/4
RUN rm -r /d/e && mkdir /d/e && echo new > /d/e/new && rm /f -r && chmod 700 /d
RUN rm -rf /tmp /d/2 && touch /f
";
    let Some((subject, context)) = prepared(text) else { return };
    let list = |options: &[&str], name: &str| {
        build(&subject, &[options, &["-t", name]].concat(), &context).expect(0);
        let script = "cd /; stat -c '%n %a %u %F' d d/* d/e/* f tmp 2>&1 | sort; cat d/e/new d/3";
        subject.insula(&["run", "--rm", "--network", "none", name, "sh", "-c", script]).expect(0).out
    };
    let many = list(&[], "many");
    assert!(many.contains("d 700") && !many.contains("d/e/1") && many.contains("new"), "{many}");
    assert_eq!(list(&["--squash"], "one"), many);
    let layers = |name: &str| subject.field(name, "{{len .RootFS.Layers}}");
    assert_eq!((layers("many"), layers("one")), ("4".to_owned(), "2".to_owned()));
    subject.finish();
}

#[test]
fn failures_have_a_place_and_leave_nothing() {
    let Some((subject, context)) = prepared("FROM test:1\nRUN echo before \\\n  && echo why >&2 && exit 7\n") else {
        return;
    };
    let dockerfile = subject.island.path("context/Dockerfile");
    let fails = |text: &str, expect: &[&str]| {
        fs::write(&dockerfile, text).unwrap();
        let run = build(&subject, &[], &context);
        assert_eq!(run.code, 1, "{}", run.err);
        for part in expect {
            assert!(run.err.contains(part), "{part:?} in {}", run.err);
        }
        assert_nothing_unfinished(&subject);
    };
    let text = fs::read_to_string(&dockerfile).unwrap();
    fails(&text, &["Dockerfile:2:1", "non-zero code: 7", "> before", "> why", "2 | RUN echo before"]);
    fails("FROM test:1\nRUN [\"/nope\"]\n", &["Dockerfile:2:1", "/nope"]);
    // what went wrong in another stage has its place there, and only there
    let other = "FROM test:1 AS a\nRUN exit 7\nFROM test:1\nCOPY --from=a /x /y\n";
    fails(other, &["insula: Dockerfile:2:1: The command", "2 | RUN exit 7"]);
    fails("FROM test:1\nCOPY --from=0 /x /y\n", &["Dockerfile:2"]);
    fails("FROM test:1 AS a\nFROM test:1\nCOPY --from=a /nothing /y\n", &["Dockerfile:3:1", "/nothing"]);
    fails("FROM test:1\nRUN --mount=type=secret,id=q,required=true true\n", &["secret \"q\"", "--secret id=q"]);
    fails("FROM test:1\nRUN --network=host true\n", &["network.host", "--allow"]);
    fails("FROM test:1\nUSER nobody-here\nRUN true\n", &["nobody-here"]);
    fails("FROM 127.0.0.1:1/missing:1\n", &["127.0.0.1:1/missing:1", "cannot be pulled"]);
    fails("FROM test:1\nCOPY file /bin\nCOPY file /etc/passwd/x\n", &["Dockerfile:3:1"]);
    // two stages fail at the same time, and the build with them, once
    fails(
        "FROM test:1 AS a\nRUN exit 3\nFROM test:1 AS b\nRUN exit 4\nFROM test:1\nCOPY --from=a /x /x\nCOPY --from=b /x /x\n",
        &["non-zero code"],
    );
    assert_eq!(subject.insula(&["images", "-q"]).expect(0).out.lines().count(), 1);
    subject.finish();
}

#[test]
fn the_user_can_stop_a_build() {
    let Some((subject, context)) = prepared("FROM test:1\nRUN echo begun; sleep 1000\n") else { return };
    let mut command = subject.command(&["build", "--progress", "plain", &context]);
    let log = subject.island.path("build.log");
    let mut child =
        command.stderr(fs::File::create(&log).unwrap()).stdout(std::process::Stdio::null()).spawn().unwrap();
    let begun = wait_for(SOON, || fs::read_to_string(&log).unwrap().contains("begun\n").then_some(()));
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), Signal::INT).unwrap();
    child.wait().unwrap();
    assert!(begun.is_some(), "{}", fs::read_to_string(&log).unwrap());
    assert_nothing_unfinished(&subject);
    subject.assert_empty();
    subject.finish();
}

#[test]
fn a_killed_daemon_leaves_no_half_layer() {
    let text = "FROM test:1 AS a\nRUN head -c 3000000 /dev/urandom > /r1; sleep 0.05\nCOPY file /a\nRUN mkdir /m; for i in $(seq 200); do echo $i > /m/$i; done
FROM test:1\nRUN sleep 0.1; echo b > /b\nCOPY --from=a /m /m\nCOPY --from=a /r1 /r1\nRUN ls /m | wc -l > /count\n";
    let Some((mut subject, context)) = prepared(text) else { return };
    for round in 0..8_u64 {
        let options = ["build", "--no-cache", "--progress", "quiet", &context];
        let mut child = subject
            .command(&options)
            .stderr(std::process::Stdio::null())
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        // spread over the build, as it was measured: the exact moment does not matter
        std::thread::sleep(Duration::from_millis(20 + round * 70));
        subject.end_daemon(Signal::KILL);
        child.wait().unwrap();
        subject.start_daemon();
        assert_nothing_unfinished(&subject);
        subject.assert_empty();
        let built = build(&subject, &["-t", "made"], &context).expect(0);
        let id = built.text().to_owned();
        let count = subject.insula(&["run", "--rm", "--network", "none", "made", "cat", "/count"]).expect(0);
        assert_eq!(count.text(), "200", "round {round}, image {id}");
    }
    subject.insula(&["rmi", "-f", "made"]).expect(0);
    subject.insula(&["image", "prune", "-f"]).expect(0);
    subject.insula(&["builder", "prune", "-af"]).expect(0);
    let layers = fs::read_dir(subject.island.path("state/images/layers")).unwrap().count();
    assert_eq!(layers, 1, "the space has come back but for the test's own image");
    subject.finish();
}

#[test]
fn results_go_where_they_are_wanted() {
    let Some((subject, context)) = prepared("FROM scratch\nCOPY file /sub/\nCOPY <<E /here\nx\nE\n") else { return };
    let folder = subject.island.path("out");
    let dest = format!("type=local,dest={}", folder.display());
    build(&subject, &["-o", &dest], &context).expect(0);
    assert_eq!(fs::read_to_string(folder.join("sub/file")).unwrap(), "one\n");
    assert_eq!(fs::read_to_string(folder.join("here")).unwrap(), "x\n");
    let tar = subject.island.path("out.tar");
    let dest = format!("type=tar,dest={}", tar.display());
    build(&subject, &["-o", &dest], &context).expect(0);
    let listed = finish(std::process::Command::new("tar").arg("tf").arg(&tar), b"").expect(0);
    assert!(listed.out.contains("sub/file") && listed.out.contains("here"), "{}", listed.out);
    // a context from standard input, and a Dockerfile alone
    let packed = finish(
        std::process::Command::new("sh").args([
            "-c",
            "tar -C \"$0\" -cf \"$0.tar\" . && cat \"$0.tar\" | wc -c",
            &context,
        ]),
        b"",
    )
    .expect(0);
    assert!(!packed.out.is_empty());
    let archive = fs::read(format!("{context}.tar")).unwrap();
    let made = subject.insula_with(&["build", "--progress", "quiet", "-"], &archive).expect(0);
    assert!(made.text().starts_with("sha256:"), "{}", made.out);
    let alone = subject.insula_with(&["build", "--progress", "quiet", "-"], b"FROM test:1\nRUN true\n").expect(0);
    assert!(alone.text().starts_with("sha256:"), "{}", alone.out);
    subject.finish();
}
