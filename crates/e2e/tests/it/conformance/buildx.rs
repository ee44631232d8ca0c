//! `docker build` as today's clients do it, by their plugin buildx: a session beside the calls of BuildKit's protocol.
//!
//! The plugin is looked for where docker has it, and in the folder that `INSULA_E2E_DOCKER_PLUGINS` names.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use testkit::wait_for;

use crate::peers::Registry;
use crate::subject::{Kind, Run, SOON, Subject, finish, kind};

/// Where distributions and Docker's packages put plugins.
const FOLDERS: [&str; 5] = [
    "/usr/libexec/docker/cli-plugins",
    "/usr/lib/docker/cli-plugins",
    "/usr/local/libexec/docker/cli-plugins",
    "/usr/local/lib/docker/cli-plugins",
    "/root/.docker/cli-plugins",
];

/// A plugin's program, if it is there; prints where it is looked for.
pub(super) fn plugin(name: &str) -> Option<PathBuf> {
    let own = std::env::var_os("INSULA_E2E_DOCKER_PLUGINS").map(PathBuf::from);
    let folders = own.into_iter().chain(FOLDERS.map(PathBuf::from));
    let found = folders.map(|folder| folder.join(name)).find(|path| path.is_file());
    if found.is_none() {
        println!("skipped: no {name} among docker's plugins; INSULA_E2E_DOCKER_PLUGINS may name their folder");
    }
    found
}

/// A daemon, and docker's client with these plugins.
pub(super) struct Scene {
    pub(super) subject: Subject,
}

impl Scene {
    pub(super) fn start(plugins: &[&str]) -> Option<Self> {
        let found: Vec<PathBuf> = plugins.iter().map(|name| plugin(name)).collect::<Option<_>>()?;
        let subject = Subject::start()?;
        subject.docker_command(&["version"])?;
        let _ = subject.island.dir("docker-config");
        let folder = subject.island.dir("docker-config/cli-plugins");
        for (name, path) in plugins.iter().zip(found) {
            std::os::unix::fs::symlink(path, folder.join(name)).unwrap();
        }
        Some(Self { subject })
    }

    pub(super) fn file(&self, path: &str, text: &str) {
        let path = self.subject.island.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    pub(super) fn command(&self, words: &[&str]) -> Command {
        let mut command = self.subject.docker_command(words).unwrap();
        command.env("HOME", self.subject.island.path("docker-config"));
        for name in ["DOCKER_BUILDKIT", "BUILDX_BUILDER", "BUILDKIT_PROGRESS", "SSH_AUTH_SOCK"] {
            command.env_remove(name);
        }
        command.env("TOKEN", "from the environment");
        command
    }

    pub(super) fn run(&self, words: &[&str]) -> Run {
        finish(&mut self.command(words), b"")
    }

    fn run_with(&self, words: &[&str], input: &[u8]) -> Run {
        finish(&mut self.command(words), input)
    }

    /// A plain build, whose progress is on the error stream.
    pub(super) fn build(&self, words: &[&str]) -> Run {
        self.run(&[&["build", "--progress", "plain"][..], words].concat())
    }

    pub(super) fn path(&self, name: &str) -> String {
        self.subject.island.path(name).display().to_string()
    }

    fn inspect(&self, name: &str) -> Value {
        let text = self.run(&["image", "inspect", name]).expect(0).out;
        serde_json::from_str::<Value>(&text).unwrap()[0].clone()
    }
}

pub(super) fn ours() -> bool {
    kind() == Kind::Insula
}

/// BuildKit within Docker 20.10 has neither named contexts nor secrets in variables, and fetches the front end that is named.
fn dockerfile() -> String {
    let text = DOCKERFILE.to_owned();
    match ours() {
        true => format!("# syntax=docker/dockerfile:1\n{text}"),
        false => text
            .replace("id=word,env=WORD", "id=word")
            .replace("$WORD", "$(cat /run/secrets/word)")
            .replace("COPY --from=beside extra /work/", "RUN printf extra > /work/extra"),
    }
}

const DOCKERFILE: &str = r#"FROM test:1 AS tool
ARG WHO=nobody
RUN --mount=type=secret,id=file --mount=type=secret,id=word,env=WORD --mount=type=cache,target=/kept \
    echo "$WHO $(cat /run/secrets/file) $WORD" > /told && echo more >> /kept/count && cat /told
RUN grep -q "1.2.3.4.*other-host" /etc/hosts && ulimit -n
FROM test:1
WORKDIR /work
COPY . .
COPY --from=tool /told told
COPY --from=beside extra /work/
LABEL of=file
CMD ["cat", "/work/told"]
"#;

#[test]
fn a_build_goes_through_a_session() {
    let Some(scene) = Scene::start(&["docker-buildx"]) else { return };
    scene.file("c/Dockerfile", &dockerfile());
    scene.file("c/.dockerignore", "ignored*\n!ignored.not\n");
    for name in ["one", "ignored.yes", "ignored.not", "deep/er/two"] {
        scene.file(&format!("c/{name}"), name);
    }
    std::os::unix::fs::symlink("one", scene.subject.island.path("c/link")).unwrap();
    scene.file("beside/extra", "extra");
    scene.file("secret", "of a file");
    let (id, meta, context) = (scene.path("id"), scene.path("meta"), scene.path("c"));
    let (secret, beside) =
        (format!("id=file,src={}", scene.path("secret")), format!("beside={}", scene.path("beside")));
    let flags = "--build-arg WHO=somebody --secret id=word,env=TOKEN --label by=flag --add-host other-host:1.2.3.4 \
                 --ulimit nofile=77:88 -t made:1 -t made:2";
    let mut words: Vec<&str> = flags.split_whitespace().collect();
    words.extend(["--secret", &secret, "--iidfile", &id, "--metadata-file", &meta, &context]);
    if ours() {
        words.extend(["--build-context", &beside]);
    }
    let first = scene.build(&words).expect(0);
    for line in
        ["[internal] load build definition from Dockerfile", "[internal] load build context", "exporting to image"]
    {
        assert!(first.err.contains(line), "{line} in {}", first.err);
    }
    let limit = if ours() { " 77" } else { "" };
    for line in ["somebody of a file from the environment", limit] {
        assert!(first.err.lines().any(|shown| shown.starts_with('#') && shown.ends_with(line)), "{}", first.err);
    }
    let made = scene.inspect("made:2");
    assert_eq!(made["Id"], fs::read_to_string(&id).unwrap());
    assert_eq!((&made["Config"]["Labels"]["by"], &made["Config"]["Labels"]["of"]), (&"flag".into(), &"file".into()));
    let told: Value = serde_json::from_str(&fs::read_to_string(&meta).unwrap()).unwrap();
    assert_eq!(
        told["containerimage.config.digest"].as_str().unwrap_or_else(|| made["Id"].as_str().unwrap()),
        made["Id"]
    );
    assert!(!ours() || told["image.name"] == "made:1,made:2", "{told}");
    let script = "echo * deep/er/*; cat told link extra";
    let shown = scene.run(&["run", "--rm", "--network", "none", "made:1", "sh", "-c", script]).expect(0);
    let expected = "Dockerfile deep extra ignored.not link one told deep/er/two\n\
                    somebody of a file from the environment\noneextra";
    assert_eq!(shown.out, expected);
    // nothing has changed, so nothing is done; then only what one stage needs, anew
    let again = scene.build(&words).expect(0);
    assert!(!again.err.contains("somebody of a file"), "{}", again.err);
    assert_eq!(scene.inspect("made:1")["Id"], made["Id"]);
    let anew = scene.build(&[&["--no-cache-filter", "tool"][..], &words].concat()).expect(0);
    assert!(anew.err.contains("somebody of a file"), "{}", anew.err);
    let target = scene.run(&[&["build", "-q", "--target", "tool"][..], &words].concat()).expect(0);
    assert!(target.text().starts_with("sha256:"), "{}", target.out);
    if ours() {
        // as BuildKit of today has it; that of Docker 20.10 shows no lines for what a program does
        errors_point_at_the_file(&scene);
    }
    other_ways_in(&scene);
    outputs_come_back(&scene);
    scene.run(&["buildx", "inspect"]).expect(0);
    assert!(scene.run(&["buildx", "du"]).expect(0).out.contains("Total"));
    scene.run(&["buildx", "prune", "-af"]).expect(0);
    scene.subject.assert_empty();
    scene.subject.finish();
}

fn errors_point_at_the_file(scene: &Scene) {
    scene.file("bad/Dockerfile", "FROM test:1\nRUN echo before\nRUN echo last words && \\\n  exit 9\n");
    let failed = scene.build(&[&scene.path("bad")]).expect(1);
    let lines = [
        "Dockerfile:3",
        "   3 | >>> RUN echo last words && \\",
        "did not complete successfully: exit code: 9",
        "last words",
    ];
    for line in lines {
        assert!(failed.err.contains(line), "{line} in {}", failed.err);
    }
    let unknown = scene.run_with(&["build", "--progress", "plain", "-"], b"FROM test:1\nCPY a b\n").expect(1);
    assert!(unknown.err.contains("   2 | >>> CPY a b"), "{}", unknown.err);
    let missing = scene.run_with(&["build", "-f", "-", &scene.path("c")], b"FROM test:1\nCOPY nowhere /\n").expect(1);
    assert!(missing.err.contains(">>> COPY nowhere /"), "{}", missing.err);
    let secret = b"FROM test:1\nRUN --mount=type=secret,id=no,required=true true\n";
    assert!(scene.run_with(&["build", "-"], secret).expect(1).err.contains(">>> RUN"));
    let other = scene.run_with(&["build", "-"], b"# syntax=some/other:1\nFROM test:1\n").expect(1);
    assert!(other.err.contains("no front end \"some/other:1\""), "{}", other.err);
}

/// Dockerfiles and contexts that are no folder.
fn other_ways_in(scene: &Scene) {
    let text = b"FROM test:1\nCOPY one /renamed\nRUN cat /renamed\n";
    let beside = scene.run_with(&["build", "--progress", "plain", "-f", "-", &scene.path("c")], text).expect(0);
    assert!(beside.err.lines().any(|line| line.ends_with(" one")), "{}", beside.err);
    scene.file("packed/Dockerfile", "FROM test:1\nADD all.tar /all\nRUN cat /all/deep/er/two\n");
    let inner = scene.path("packed/all.tar");
    finish(Command::new("tar").args(["-C", &scene.path("c"), "-cf", &inner, "one", "deep"]), b"").expect(0);
    let archive = scene.subject.island.path("packed.tgz");
    let words = ["-C", &scene.path("packed"), "-czf", archive.to_str().unwrap(), "."];
    finish(Command::new("tar").args(words), b"").expect(0);
    let sent = scene.run_with(&["build", "--progress", "plain", "-"], &fs::read(archive).unwrap()).expect(0);
    assert!(sent.err.lines().any(|line| line.ends_with(" deep/er/two")), "{}", sent.err);
}

fn outputs_come_back(scene: &Scene) {
    scene.file("files/Dockerfile", "FROM test:1 AS a\nRUN mkdir /o && echo x > /o/x && ln -s x /o/l && chmod 4755 /o/x\nFROM scratch\nCOPY --from=a /o /\n");
    let (folder, context) = (scene.path("out"), scene.path("files"));
    scene.build(&["-o", &folder, &context]).expect(0);
    let out = scene.subject.island.path("out");
    assert_eq!(fs::read_to_string(out.join("l")).unwrap(), "x\n");
    let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(out.join("x")).unwrap().permissions());
    assert_eq!(mode & 0o7777, 0o4755);
    let file = scene.path("out.tar");
    scene.build(&["-o", &format!("type=tar,dest={file}"), &context]).expect(0);
    let listed = finish(Command::new("tar").args(["-tf", &file]), b"").expect(0);
    assert!(listed.out.lines().any(|line| line.trim_start_matches("./") == "x"), "{}", listed.out);
    if !ours() {
        return;
    }
    for kind in ["oci", "docker"] {
        let file = scene.path(kind);
        scene.build(&["-o", &format!("type={kind},dest={file}"), "-t", "packed:1", &context]).expect(0);
        assert!(scene.run(&["load", "-i", &file]).expect(0).out.contains("packed:1"));
        scene.run(&["rmi", "packed:1"]).expect(0);
    }
}

#[test]
fn a_build_that_is_interrupted_leaves_nothing() {
    let Some(scene) = Scene::start(&["docker-buildx"]) else { return };
    scene.file("slow/Dockerfile", "FROM test:1\nRUN echo begun; sleep 1000\n");
    let mut command = scene.command(&["build", "--progress", "plain", "-t", "slow:1", &scene.path("slow")]);
    let log = fs::File::create(scene.subject.island.path("slow.log")).unwrap();
    let mut child = command.stdin(std::process::Stdio::null()).stderr(log).spawn().unwrap();
    let shown = || fs::read_to_string(scene.subject.island.path("slow.log")).unwrap();
    let begun = wait_for(SOON * 3, || shown().lines().any(|line| line.ends_with(" begun")).then_some(()));
    assert!(begun.is_some(), "{}", shown());
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    let ended = wait_for(SOON, || child.try_wait().unwrap()).expect("the client goes on");
    assert!(!ended.success());
    scene.run(&["image", "inspect", "slow:1"]).expect(1);
    scene.subject.assert_empty();
    scene.subject.finish();
}

#[test]
fn registries_are_asked_in_the_users_name() {
    if !ours() {
        // a registry without a certificate has to be in its settings
        println!("skipped: about insulad only");
        return;
    }
    let Some(scene) = Scene::start(&["docker-buildx"]) else { return };
    let users = scene.subject.island.path("users");
    // anna, geheim
    fs::write(&users, "anna:$2b$04$y8kWk5zSF1b.G4mR4MkHRODKLfCuLaCz/ACcNW95jQm9XH6.5gkBu\n").unwrap();
    let registry = Registry::start(&scene.subject, &["--htpasswd", users.to_str().unwrap()]);
    let login = ["login", "-u", "anna", "--password-stdin", &registry.address];
    scene.run_with(&login, b"geheim\n").expect(0);
    let (base, app, cache) = (registry.name("base:1"), registry.name("app:1"), registry.name("cache:1"));
    scene.run(&["tag", "test:1", &base]).expect(0);
    scene.run(&["push", "-q", &base]).expect(0);
    scene.run(&["rmi", &base]).expect(0);
    scene.file("c/Dockerfile", &format!("FROM {base}\nRUN date +%N > /now\n"));
    let to = format!("type=registry,ref={cache},mode=max");
    scene.build(&["--push", "-t", &app, "--cache-to", &to, "--cache-to", "type=inline", &scene.path("c")]).expect(0);
    let made = scene.inspect(&app)["Id"].clone();
    // the image and its steps are there, and come from there
    for from in [&cache, &app] {
        scene.run(&["rmi", "-f", made.as_str().unwrap()]).expect(0);
        scene.run(&["builder", "prune", "-af"]).expect(0);
        let from = format!("type=registry,ref={from}");
        let again =
            scene.build(&["--cache-from", &from, "--cache-to", "type=inline", "-t", &app, &scene.path("c")]).expect(0);
        assert!(again.err.contains("CACHED"), "{}", again.err);
        assert_eq!(scene.inspect(&app)["Id"], made);
    }
    let folder = scene.path("cache");
    scene.build(&["--cache-to", &format!("type=local,dest={folder},mode=max"), &scene.path("c")]).expect(0);
    scene.run(&["rmi", "-f", made.as_str().unwrap()]).expect(0);
    scene.run(&["builder", "prune", "-af"]).expect(0);
    let again = scene.build(&["--cache-from", &format!("type=local,src={folder}"), &scene.path("c")]).expect(0);
    assert!(again.err.contains("CACHED"), "{}", again.err);
    scene.run(&["logout", &registry.address]).expect(0);
    scene.run(&["rmi", "-f", &app, &base]);
    let refused = scene.build(&["--pull", &scene.path("c")]).expect(1);
    assert!(refused.err.contains("load metadata for") && refused.err.contains("ERROR"), "{}", refused.err);
    drop(registry);
    scene.subject.finish();
}

#[test]
fn several_platforms_are_built_and_attested() {
    if !ours() {
        // a dockerd without containerd's image store builds for one
        println!("skipped: about insulad only");
        return;
    }
    let Some(scene) = Scene::start(&["docker-buildx"]) else { return };
    let registry = Registry::start(&scene.subject, &[]);
    let name = registry.name("many:1");
    let text = "# WHO is asked for\nARG WHO=nobody\nFROM --platform=$BUILDPLATFORM test:1 AS tool\nARG TARGETARCH WHO\n\
                RUN --mount=type=secret,id=key echo $TARGETARCH $WHO > /words\n# last has the words\nFROM scratch AS last\n\
                COPY --from=tool /words /\n";
    scene.file("c/Dockerfile", text);
    let context = scene.path("c");
    let platforms = ["--platform", "linux/amd64,linux/arm64"];
    let made = [&platforms[..], &["--provenance=mode=max", "--push", "-t", &name, &context]].concat();
    let shown = scene.build(&made).expect(0);
    assert!(shown.err.contains("[linux/amd64 tool 2/2] RUN"), "{}", shown.err);
    let inspected =
        scene.run(&["buildx", "imagetools", "inspect", &name, "--format", "{{json .Provenance}}"]).expect(0);
    let said: Value = serde_json::from_str(&inspected.out).unwrap();
    for platform in ["linux/amd64", "linux/arm64"] {
        let slsa = &said[platform]["SLSA"];
        assert_eq!(slsa["invocation"]["configSource"]["entryPoint"], "Dockerfile", "{said}");
        assert!(slsa["materials"][0]["uri"].as_str().unwrap().contains("pkg:docker/test@1"), "{said}");
    }
    let out = scene.path("out");
    scene.build(&[&platforms[..], &["-o", &out, &context]].concat()).expect(0);
    let words = fs::read_to_string(scene.subject.island.path("out/linux_arm64/words")).unwrap();
    assert_eq!(words, "arm64 nobody\n");
    // without a word of the user's an image is what it was: no index, and the id that it had
    let plain = registry.name("plain:1");
    scene.build(&["--push", "-t", &plain, &context]).expect(0);
    let raw = scene.run(&["buildx", "imagetools", "inspect", "--raw", &plain]).expect(0);
    assert!(raw.out.contains("\"layers\"") && !raw.out.contains("attestation"), "{}", raw.out);
    let sbom = scene.build(&["--sbom=true", &context]).expect(1);
    assert!(sbom.err.contains("scanner"), "{}", sbom.err);
    // what is asked of the file in place of a build
    let ask = |what: &str| {
        let mut command = scene.command(&["buildx", "build", what, &context]);
        finish(command.env("BUILDX_EXPERIMENTAL", "1"), b"")
    };
    let outline = ask("--print=outline,format=json");
    if outline.err.contains("unknown flag") {
        println!("skipped: this client calls it otherwise");
    } else {
        let said: Value = serde_json::from_str(&outline.expect(0).out).unwrap();
        assert_eq!(
            (&said["name"], &said["args"][0]["description"]),
            (&"last".into(), &"is asked for".into()),
            "{said}"
        );
        assert_eq!(said["secrets"][0]["name"], "key");
        let targets = ask("--print=targets").expect(0).out;
        assert!(targets.contains("tool") && targets.contains("last (default)"), "{targets}");
    }
    drop(registry);
    scene.subject.finish();
}

#[test]
fn compose_builds_by_it() {
    let Some(scene) = Scene::start(&["docker-buildx", "docker-compose"]) else { return };
    let file = "services:\n  web:\n    network_mode: none\n    build:\n      context: .\n      args: {WHO: you}\n";
    scene.file("shop/compose.yaml", file);
    scene.file("shop/Dockerfile", "FROM test:1\nARG WHO\nRUN echo hello $WHO > /hello\nCMD [\"cat\", \"/hello\"]\n");
    let compose = |words: &[&str]| {
        let mut command = scene.command(&[&["compose"][..], words].concat());
        for name in ["COMPOSE_FILE", "COMPOSE_PROJECT_NAME", "COMPOSE_PROFILES", "COMPOSE_ENV_FILES"] {
            command.env_remove(name);
        }
        finish(command.current_dir(scene.subject.island.path("shop")), b"").expect(0)
    };
    compose(&["build"]);
    assert!(compose(&["up", "--build"]).out.contains("hello you"));
    compose(&["down"]);
    scene.subject.assert_empty();
    scene.subject.finish();
}
