//! What RUN does in a folder that VOLUME has named before: the classic builder forgets it, BuildKit keeps it.

use std::fs;

use crate::subject::{Kind, Subject, finish, kind};

const TEXT: &str = "FROM test:1
RUN mkdir /v && echo before > /v/a && chmod 1770 /v
VOLUME /v /new
RUN echo after > /v/b && echo after > /new/b && ls /v
RUN ls /v && ! test -e /new/b
COPY Dockerfile /v/c
RUN ls -ld /v | head -c 10 > /mode
";

#[test]
fn what_is_run_in_volumes_is_the_builders_matter() {
    let Some(subject) = Subject::start() else { return };
    let context = subject.island.dir("context");
    fs::write(context.join("Dockerfile"), TEXT).unwrap();
    let context = context.to_str().unwrap();
    let Some(mut command) = subject.docker_command(&["build", "-t", "volumes:1", context]) else { return };
    finish(command.env("DOCKER_BUILDKIT", "0"), b"").expect(0);
    let run = |name: &str| {
        let words = ["run", "--rm", "--network", "none", name, "sh", "-c", "echo /new/* /v/*; cat /mode"];
        finish(&mut subject.docker_command(&words).unwrap(), b"").expect(0).text().to_owned()
    };
    assert_eq!(run("volumes:1"), "/new/* /v/a /v/c\ndrwxrwx--T");
    if kind() == Kind::Insula {
        let kept =
            TEXT.replace(" && ! test -e /new/b", " && test -e /new/b").replace("/new\n", "/new\nRUN mkdir /new\n");
        fs::write(subject.island.path("context/Dockerfile"), kept).unwrap();
        subject.insula(&["build", "-q", "-t", "volumes:2", context]).expect(0);
        assert_eq!(run("volumes:2"), "/new/b /v/a /v/b /v/c\ndrwxrwx--T");
    }
    subject.assert_empty();
    subject.finish();
}
