//! Caches of builds at other places, and who asks for bases there.

use std::fs;

use crate::peers::Registry;
use crate::subject::{Run, Subject, finish, skip_unless_insula};

const TEXT: &str = "FROM test:1 AS tool
RUN echo tool > /tool && date +%N > /random
FROM test:1
COPY file /a/
RUN date +%N > /now
COPY --link file /linked
COPY --from=tool /tool /tool
";

struct Scene {
    subject: Subject,
    registry: Registry,
    context: String,
}

impl Scene {
    /// A registry that wants a password, which the user has.
    fn new() -> Option<Self> {
        if skip_unless_insula() {
            return None;
        }
        let subject = Subject::start()?;
        let users = subject.island.path("users");
        // anna, geheim
        fs::write(&users, "anna:$2b$04$y8kWk5zSF1b.G4mR4MkHRODKLfCuLaCz/ACcNW95jQm9XH6.5gkBu\n").unwrap();
        let registry = Registry::start(&subject, &["--htpasswd", users.to_str().unwrap()]);
        let words = ["login", "-u", "anna", "--password-stdin", &registry.address];
        subject.insula_with(&words, b"geheim\n").expect(0);
        let context = subject.island.dir("context");
        fs::write(context.join("Dockerfile"), TEXT).unwrap();
        fs::write(context.join("file"), "one\n").unwrap();
        Some(Self { subject, registry, context: context.display().to_string() })
    }

    fn build(&self, options: &[&str]) -> Run {
        self.subject.insula(&[&["build", "--progress", "plain"][..], options, &[&self.context]].concat()).expect(0)
    }

    /// Takes everything away that builds have left here.
    fn forget(&self, id: &str) {
        self.subject.insula(&["rmi", "-f", id]).expect(0);
        self.subject.insula(&["image", "prune", "-f"]).expect(0);
        self.subject.insula(&["builder", "prune", "-af"]).expect(0);
        let layers = fs::read_dir(self.subject.island.path("state/images/layers")).unwrap().count();
        assert_eq!(layers, 1, "only the base is left");
    }
}

#[test]
fn steps_are_found_at_other_places() {
    let Some(scene) = Scene::new() else { return };
    let (cache, app) = (scene.registry.name("team/cache:1"), scene.registry.name("team/app:1"));
    let folder = scene.subject.island.path("cache").display().to_string();
    let (to_registry, to_folder) = (format!("type=registry,ref={cache},mode=max"), format!("type=local,dest={folder}"));
    let places = ["--cache-to", &to_registry, "--cache-to", &to_folder, "--cache-to", "type=inline", "-t", &app];
    let first = scene.build(&places);
    let id = first.text().to_owned();
    scene.subject.insula(&["push", "-q", &app]).expect(0);
    // of all stages: nothing is done again, and the image is the same to the second
    scene.forget(&id);
    let again = scene.build(&["--cache-from", &cache, "--cache-to", "type=inline"]);
    assert_eq!(again.err.matches("CACHED").count(), 4, "{}", again.err);
    assert_eq!(again.text(), id);
    // of a folder, without the stage that is not in the result; the copied file is the same, so all behind it is found
    scene.forget(&id);
    let local = format!("type=local,src={folder}");
    let again = scene.build(&["--cache-from", &local, "--cache-to", "type=inline"]);
    assert_eq!(again.err.matches("CACHED").count(), 4, "{}", again.err);
    assert_eq!(again.text(), id);
    // a second export sends nothing twice and stays whole
    scene.build(&["--cache-from", &local, "--cache-to", &to_folder, "--cache-to", &to_registry]);
    // of the image itself, by the stock client as well
    scene.forget(&id);
    let words = ["build", "--cache-from", &app, "--build-arg", "BUILDKIT_INLINE_CACHE=1", &scene.context];
    if let Some(mut docker) = scene.subject.docker_command(&words) {
        let run = finish(docker.env("DOCKER_BUILDKIT", "0"), b"").expect(0);
        assert_eq!(run.out.matches("Using cache").count(), 4, "{}", run.out);
        assert!(run.out.contains(&format!("Successfully built {}", &id["sha256:".len()..][..12])), "{}", run.out);
        scene.forget(&id);
    }
    fs::write(scene.subject.island.path("context/file"), "two\n").unwrap();
    let changed = scene.build(&["--cache-from", &app]);
    assert_eq!(changed.err.matches("CACHED").count(), 0, "{}", changed.err);
    // what cannot be had is told of and changes nothing
    let missing = scene.registry.name("team/none:1");
    let without = scene.build(&["--cache-from", &missing, "--cache-from", "type=local,src=/proc/self"]);
    assert_eq!(without.err.matches("no cache from").count(), 2, "{}", without.err);
    scene.subject.insula(&["logout", &scene.registry.address]).expect(0);
    let refused = scene.subject.insula(&["build", "--cache-to", &to_registry, &scene.context]).expect(1);
    assert!(refused.err.contains("the image is built"), "{}", refused.err);
    scene.subject.insula(&["system", "check"]).expect(0);
    drop(scene.registry);
    scene.subject.finish();
}

#[test]
fn private_bases_are_fetched_for_their_user() {
    let Some(scene) = Scene::new() else { return };
    let base = scene.registry.name("private/base:1");
    scene.subject.insula(&["tag", "test:1", &base]).expect(0);
    scene.subject.insula(&["push", "-q", &base]).expect(0);
    scene.subject.insula(&["rmi", &base]).expect(0);
    fs::write(scene.subject.island.path("context/Dockerfile"), format!("FROM {base}\nRUN echo x > /x\n")).unwrap();
    scene.build(&["-t", "made"]);
    scene.subject.insula(&["rmi", &base]).expect(0);
    if let Some(mut docker) = scene.subject.docker_command(&["build", "-t", "made", &scene.context]) {
        finish(docker.env("DOCKER_BUILDKIT", "0"), b"").expect(0);
        scene.subject.insula(&["rmi", &base]).expect(0);
    }
    scene.subject.insula(&["logout", &scene.registry.address]).expect(0);
    let refused = scene.subject.insula(&["build", &scene.context]).expect(1);
    assert!(refused.err.contains("cannot be pulled"), "{}", refused.err);
    drop(scene.registry);
    scene.subject.finish();
}
