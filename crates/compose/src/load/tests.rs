//! Files in memory, through the whole way.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use super::*;
use crate::{Project, emit, hash};

fn options(files: &[&str]) -> Options {
    Options {
        files: files.iter().map(PathBuf::from).collect(),
        current: PathBuf::from("/p"),
        environment: [("HOME", "/root"), ("USER", "me")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into(),
        ..Options::default()
    }
}

fn project(files: &[(&str, &str)], options: &Options) -> Result<Project, FileError> {
    let files: BTreeMap<PathBuf, &str> = files.iter().map(|(name, text)| (Path::new("/p").join(name), *text)).collect();
    let read = |path: &Path| {
        files.get(path).map(|text| (*text).to_owned()).ok_or_else(|| io::Error::from(ErrorKind::NotFound))
    };
    let mut project = Project::new(Loader::new(&read).load(options)?, &[])?;
    project.resolve(&read)?;
    project.drop_unused();
    Ok(project)
}

/// The services as they are shown, on one line each.
#[track_caller]
fn services(files: &[(&str, &str)], options: &Options) -> String {
    let project = project(files, options).unwrap();
    let lines = project.services.values().map(|service| format!("{} {}", service.name, emit::compact(&service.node)));
    lines.collect::<Vec<_>>().join("\n")
}

#[track_caller]
fn check_one(text: &str, expect: &str) {
    assert_eq!(services(&[("compose.yaml", text)], &options(&[])), expect);
}

#[track_caller]
fn check_merge(files: &[(&str, &str)], expect: &str) {
    let names: Vec<&str> = files.iter().map(|(name, _)| *name).collect();
    assert_eq!(services(files, &options(&names)), expect);
}

/// As 2.26.1 hashes the services of a project: what one depends on and its profiles count, and modes are numbers.
#[test]
fn hashes_of_older_versions_are_known() {
    let golden = include_str!("golden.yaml").replace("    gpus: all\n", "");
    let mut asked = options(&[]);
    asked.profiles = vec!["p".to_owned()];
    let project = project(&[("compose.yaml", &golden)], &asked).unwrap();
    let web = &project.services["web"].node;
    assert!(hash::is_of_service("f6d6c44ce4ba2c248255731127fbdd6cac1cbd6f94cfa96ae9f2f0ab1cf0d63a", web));
    assert!(hash::is_of_service(&hash::service(web), web));
    assert!(!hash::is_of_service("", web) && !hash::is_of_service(&hash::service(&project.services["db"].node), web));
}

/// What docker compose 2.40.3 prints for this file with `config --hash "*"`; its networks and volumes get these labels.
#[test]
fn hashes_are_those_of_docker_compose() {
    let golden = include_str!("golden.yaml");
    let mut asked = options(&[]);
    asked.profiles = vec!["p".to_owned()];
    let project = project(&[("compose.yaml", golden)], &asked).unwrap();
    let service = |name: &str| hash::service(&project.services[name].node);
    assert_eq!(service("db"), "0665a764649a61660f42d5799f0be75889e8efe2a5ce4c8d18d8b0eea74cccb5");
    assert_eq!(service("web"), "23334a949a71b4c246f52359ea25953017bfe4625cb57be492e2e2fb2a39e37a");
    let (network, volume) = ("{name: p1_back, internal: true}", "{name: p1_data}");
    let node = |text: &str| yaml::parse(text, "f").unwrap().remove(0);
    assert_eq!(hash::network(&node(network)), "cda4b5503aaf2066e51daa3ec2d74c96b2b824064008a59e3869e3e7aeb3f806");
    assert_eq!(hash::volume(&node(volume)), "3bc4623c1b89b8c38ed5766bf5190ce58547bf3b97ad78014292f8b328cb786e");
}

#[test]
fn what_makes_no_other_container_is_not_in_the_hash() {
    let hash_of = |text: &str| {
        let project = project(&[("compose.yaml", text)], &options(&[])).unwrap();
        hash::service(&project.services["a"].node)
    };
    let plain = hash_of("services: {a: {image: x}, b: {image: y}}");
    assert_eq!(
        plain,
        hash_of("services: {a: {image: x, scale: 3, depends_on: [b], build: ., pull_policy: never}, b: {image: y}}")
    );
    assert_ne!(plain, hash_of("services: {a: {image: x, user: me}, b: {image: y}}"));
}

#[test]
fn short_forms_are_written_out() {
    check_one(
        "services: {a: {image: x, ports: ['80'], network_mode: none, depends_on: [b], tmpfs: /t}, b: {image: y, network_mode: host}}",
        r#"a {"depends_on":{"b":{"condition":"service_started","required":true}},"image":"x","network_mode":"none","ports":[{"mode":"ingress","target":80,"protocol":"tcp"}],"tmpfs":["/t"]}
b {"image":"y","network_mode":"host"}"#,
    );
    check_one(
        "services: {a: {build: ./app, volumes: ['./src:/src:ro', '~/x:/x', v:/v]}}\nvolumes: {v: }",
        r#"a {"build":{"context":"/p/app","dockerfile":"Dockerfile"},"networks":{"default":null},"volumes":[{"type":"bind","source":"/p/src","target":"/src","read_only":true,"bind":{"create_host_path":true}},{"type":"bind","source":"/root/x","target":"/x","bind":{"create_host_path":true}},{"type":"volume","source":"v","target":"/v","volume":{}}]}"#,
    );
}

#[test]
fn files_lie_over_each_other() {
    check_merge(
        &[
            (
                "a.yaml",
                "services: {a: {image: x, command: one two, ports: ['80:80'], environment: {A: 1, B: 1}, dns: 1.1.1.1, volumes: [/a:/t], network_mode: none}}",
            ),
            (
                "b.yaml",
                "services: {a: {command: [three], ports: ['80:80', '81:81'], environment: [B=2], dns: [1.1.1.1, 2.2.2.2], volumes: [/b:/t]}}",
            ),
        ],
        r#"a {"command":["three"],"dns":["1.1.1.1","2.2.2.2"],"environment":{"A":"1","B":"2"},"image":"x","network_mode":"none","ports":[{"mode":"ingress","target":80,"published":"80","protocol":"tcp"},{"mode":"ingress","target":81,"published":"81","protocol":"tcp"}],"volumes":[{"type":"bind","source":"/b","target":"/t","bind":{"create_host_path":true}}]}"#,
    );
    check_merge(
        &[
            (
                "a.yaml",
                "services: {a: {image: x, command: one, dns: [1.1.1.1], labels: {a: 1, b: 2}, network_mode: none}, b: {image: y}}",
            ),
            (
                "b.yaml",
                "services: {a: {command: !reset null, dns: !override [2.2.2.2], labels: {a: !reset null}}, b: !reset null}",
            ),
        ],
        r#"a {"dns":["2.2.2.2"],"image":"x","labels":{"b":"2"},"network_mode":"none"}"#,
    );
    check_merge(
        &[
            ("a.yaml", "services: {a: {image: x, network_mode: none, logging: {driver: local, options: {a: b}}}}"),
            ("b.yaml", "services: {a: {logging: {driver: none}}}\n---\nservices: {a: {user: me}}"),
        ],
        r#"a {"image":"x","logging":{"driver":"none"},"network_mode":"none","user":"me"}"#,
    );
}

#[test]
fn services_extend_others() {
    let base = "services: {base: {build: ., env_file: e.env, network_mode: none}, mid: {extends: base, user: me}}";
    let files = [
        (
            "compose.yaml",
            "services: {a: {extends: {file: sub/base.yaml, service: mid}, environment: {A: 2}}, b: {extends: a, image: x}}",
        ),
        ("sub/base.yaml", base),
        ("sub/e.env", "A=1\nC=$USER\n"),
    ];
    assert_eq!(
        services(&files, &options(&[])),
        r#"a {"build":{"context":"/p/sub","dockerfile":"Dockerfile"},"environment":{"A":"2","C":"me"},"network_mode":"none","user":"me"}
b {"build":{"context":"/p/sub","dockerfile":"Dockerfile"},"environment":{"A":"2","C":"me"},"image":"x","network_mode":"none","user":"me"}"#
    );
}

#[test]
fn projects_include_others() {
    let files = [
        ("compose.yaml", "include: [sub/c.yaml]\nservices: {a: {image: x, network_mode: none, depends_on: [i]}}"),
        ("sub/c.yaml", "services: {i: {image: '${IMAGE}', network_mode: none, volumes: ['./d:/d']}}"),
        ("sub/.env", "IMAGE=from-env\n"),
    ];
    assert_eq!(
        services(&files, &options(&[])).lines().nth(1).unwrap(),
        r#"i {"image":"from-env","network_mode":"none","volumes":[{"type":"bind","source":"/p/sub/d","target":"/d","bind":{"create_host_path":true}}]}"#
    );
    let twice =
        [("compose.yaml", "include: [c.yaml]\nservices: {i: {image: y}}"), ("c.yaml", "services: {i: {image: x}}")];
    let error = project(&twice, &options(&[])).unwrap_err().to_string();
    assert!(error.starts_with("/p/compose.yaml:2: services.i: is in the included /p/c.yaml as well"), "{error}");
}

#[test]
fn variables_come_from_env_files() {
    let files = [
        (
            "compose.yaml",
            "services: {a: {image: '${TAG:-none}-$USER-$COMPOSE_PROJECT_NAME', network_mode: none, environment: [TAG, NOPE, USER]}}",
        ),
        (".env", "TAG=7\nUSER=other\n"),
    ];
    assert_eq!(
        services(&files, &options(&[])),
        r#"a {"environment":{"NOPE":null,"TAG":"7","USER":"me"},"image":"7-me-p","network_mode":"none"}"#
    );
    let mut asked = options(&[]);
    asked.env_files = vec![PathBuf::from("one"), PathBuf::from("two")];
    let files = [files[0], ("one", "TAG=1\nUSER=1\n"), ("two", "TAG=2$USER\n")];
    assert!(services(&files, &asked).contains(r#""image":"2me-me-p""#));
}

#[test]
fn projects_have_names() {
    let check = |folder: &str, text: &str, given: Option<&str>, expect: Result<&str, &str>| {
        let path = format!("{folder}/compose.yaml");
        let mut asked = options(&[&path]);
        asked.name = given.map(str::to_owned);
        let name = project(&[(&path, text)], &asked).map(|project| project.name).map_err(|error| error.to_string());
        assert_eq!(name, expect.map(str::to_owned).map_err(str::to_owned), "{folder} {text}");
    };
    let plain = "services: {a: {image: x}}";
    check("My.App_1", plain, None, Ok("myapp_1"));
    check("x", "name: n${A:-1}\nservices: {a: {image: x}}", None, Ok("n1"));
    check("x", "name: n\nservices: {a: {image: x}}", Some("given"), Ok("given"));
    check(
        "x",
        plain,
        Some("Bad"),
        Err("bad project name \"Bad\": give small letters, digits, \"_\" and \"-\", a letter or digit first"),
    );
    check("...", plain, None, Err("no project name can be made of the folder's name \"...\"; give one with: -p NAME"));
}

#[test]
fn profiles_choose_services() {
    let text = "services: {a: {image: x}, b: {image: x, profiles: [p]}, c: {image: x, profiles: [q], depends_on: [b]}}";
    let names = |profiles: &[&str], wanted: &[&str]| {
        let read = |path: &Path| {
            if path == Path::new("/p/compose.yaml") { Ok(text.to_owned()) } else { Err(ErrorKind::NotFound.into()) }
        };
        let mut asked = options(&[]);
        asked.profiles = profiles.iter().map(|name| (*name).to_owned()).collect();
        let wanted: Vec<String> = wanted.iter().map(|name| (*name).to_owned()).collect();
        let project =
            Project::new(Loader::new(&read).load(&asked).unwrap(), &wanted).map_err(|error| error.to_string())?;
        Ok::<_, String>(project.services.into_keys().collect::<Vec<_>>().join(" "))
    };
    assert_eq!(names(&[], &[]), Ok("a".to_owned()));
    assert_eq!(names(&["p"], &[]), Ok("a b".to_owned()));
    assert_eq!(names(&["*"], &[]), Ok("a b c".to_owned()));
    assert_eq!(names(&[], &["b"]), Ok("a b".to_owned()));
    assert!(names(&["q"], &[]).unwrap_err().contains("activate one with: --profile p"));
}

#[test]
fn mistakes_name_file_line_and_path() {
    let check = |text: &str, expect: &str| {
        let error = project(&[("compose.yaml", text)], &options(&[])).map(|_| ()).unwrap_err().to_string();
        assert_eq!(error, format!("/p/compose.yaml:{expect}"), "{text}");
    };
    check(
        "services:\n  web:\n    image: x\n    port: [1]\n",
        "4: services.web: unknown name \"port\"; did you mean \"ports\"?",
    );
    check(
        "services:\n  web:\n    image: x\n    prtso: [1]\n",
        "4: services.web: unknown name \"prtso\"; remove it, or begin its name with \"x-\" if it is your own",
    );
    check(
        "services:\n  web:\n    image: x\n    ports:\n      - 99999:80\n",
        "5: services.web.ports[0]: bad host port \"99999\": give 1 to 65535, or a range as in 3000-3005",
    );
    check("services:\n  web: {image: 5}", "2: services.web.image: must be a text (quote it), not \"5\"");
    check(
        "services:\n  web:\n    image: ${A:?say A}\n",
        "3: services.web.image: required variable A is missing a value: say A; set it in the environment or an env file",
    );
    check(
        "services:\n  web:\n    image: x\n    mem_limit: 12q\n",
        "4: services.web.mem_limit: must be a size as in 512m or 1.5g, not \"12q\"",
    );
    check(
        "services:\n  web:\n    image: x\n    networks: [n]\n",
        "4: services.web.networks: there is no network \"n\"; add it under \"networks\" at the top",
    );
    check(
        "services:\n  web:\n    image: x\n    depends_on: [n]\n",
        "4: services.web.depends_on: there is no service \"n\"; add it, or take it out here",
    );
    check(
        "services:\n  web:\n    user: x\n",
        "2: services.web.image: says neither \"image\" nor \"build\"; give one of them",
    );
    check(
        "services:\n  web:\n    image: x\n    extends: web\n",
        "4: services.web.extends: services extend each other in a circle: web -> web; remove one of the links",
    );
    check(
        "services:\n  web:\n    image: x\n    healthcheck: {interval: soon}\n",
        "4: services.web.healthcheck.interval: must be a span of time as in 1m30s, not \"soon\"",
    );
    check("services: [a]", "1: services: must be a map, not a list");
    check("", " the file is empty; it needs \"services\"");
    check("include: [x.yaml]\nservices: {a: {image: x}}", "1: include[0]: cannot read /p/x.yaml: entity not found");
    let circle = "services: {a: {image: x, depends_on: [b]}, b: {image: x, links: [a]}}";
    let error = project(&[("compose.yaml", circle)], &options(&[])).unwrap_err().to_string();
    assert_eq!(error, "depends_on: services depend on each other in a circle: a -> b -> a; remove one of the links");
    let none = project(&[], &options(&[])).unwrap_err().to_string();
    assert!(none.starts_with("there is no compose.yaml"), "{none}");
}

#[test]
fn files_are_found_above() {
    let mut asked = options(&[]);
    asked.current = PathBuf::from("/p/deep/er");
    let files = [
        ("docker-compose.yml", "services: {a: {image: x, network_mode: none}}"),
        ("docker-compose.override.yml", "services: {a: {user: me}}"),
    ];
    let project = project(&files, &asked).unwrap();
    assert_eq!((project.name.as_str(), project.files.len()), ("p", 2));
    assert_eq!(project.services["a"].spec.user.as_deref(), Some("me"));
}

#[test]
fn variables_can_be_kept() {
    let mut asked = options(&[]);
    asked.variables = Variables::Kept;
    let text = "services: {a: {image: '${A}', ports: ['${P}:80'], scale: '${N}', network_mode: none}}";
    let read = |path: &Path| {
        if path == Path::new("/p/compose.yaml") { Ok(text.to_owned()) } else { Err(ErrorKind::NotFound.into()) }
    };
    let loaded = Loader::new(&read).load(&asked).unwrap();
    assert_eq!(
        emit::compact(&loaded.root),
        r#"{"services":{"a":{"image":"${A}","network_mode":"none","ports":["${P}:80"],"scale":"${N}"}}}"#
    );
}

/// The `.env` beside the command may name the files; the one beside these is read under it.
#[test]
fn env_files_of_the_command_and_of_the_project() {
    let files = [
        (".env", "COMPOSE_FILE=sub/compose.yaml\nWHO=root\n"),
        ("sub/.env", "WHO=sub\nTAG=2\n"),
        ("sub/compose.yaml", "services: {a: {image: '${WHO}:${TAG}'}}"),
    ];
    let asked = Options { files: Vec::new(), ..options(&[]) };
    assert_eq!(services(&files, &asked), r#"a {"image":"root:2","networks":{"default":null}}"#);
    let below = Options { current: PathBuf::from("/p/sub/deep"), ..asked };
    assert_eq!(services(&files, &below), r#"a {"image":"sub:2","networks":{"default":null}}"#);
}

/// A secret of an included project finds the variable that only that project's env file has; nothing else does.
#[test]
fn secrets_of_included_projects() {
    let files = [
        (
            "compose.yaml",
            "include: [{path: child/compose.yaml, env_file: [s.env]}]\nservices: {b: {image: x, environment: [KEY]}}",
        ),
        ("s.env", "KEY=deep\n"),
        ("child/compose.yaml", "services: {a: {image: x, secrets: [k]}}\nsecrets: {k: {environment: KEY}}"),
    ];
    let project = project(&files, &options(&[])).unwrap();
    assert_eq!(project.variable_of_object("KEY").map(String::as_str), Some("deep"));
    assert_eq!(project.services["b"].spec.environment.get("KEY"), Some(&None));
}

#[test]
fn what_is_left_out_is_as_docker_compose_has_it() {
    let a = |text: &str| format!("services: {{a: {{image: x, network_mode: none, {text}}}}}");
    let shown = |text: &str| {
        let one = services(&[("compose.yaml", &a(text))], &options(&[]));
        one.replace("\"image\":\"x\",", "").replace("\"network_mode\":\"none\",", "")
    };
    for (text, part) in [
        ("annotations: [k]", r#""annotations":{"k":""}"#),
        ("sysctls: {k: }", r#""sysctls":{"k":""}"#),
        ("deploy: {labels: {k: }}", r#""labels":{"k":""}"#),
        ("logging: {options: {k: }}", r#""options":{"k":""}"#),
        ("gpus: [{driver: d}]", r#""count":-1"#),
        ("deploy: {resources: {reservations: {devices: [{capabilities: [gpu]}]}}}", r#""count":-1"#),
        ("extra_hosts: ['z:1.1.1.1', 'a=1.1.1.2']", r#""extra_hosts":["a=1.1.1.2","z=1.1.1.1"]"#),
        ("credential_spec: {file: f}", r#""file":"f""#),
        ("provider: {type: t, options: {a: 1, b: [true], c: x}}", r#"{"a":["1"],"b":["true"],"c":["x"]}"#),
    ] {
        assert!(shown(text).contains(part), "{text}: {}", shown(text));
    }
    for (text, absent) in [
        ("deploy: , develop: ", "deploy"),
        ("pull_refresh_after: 1d", "pull_refresh_after"),
        ("devices: [{source: /a, target: /b}]", "permissions"),
        ("build: {args: [nowhere]}", "args"),
    ] {
        assert!(!shown(text).contains(absent), "{text}: {}", shown(text));
    }
}

#[test]
fn what_makes_no_sense_is_told() {
    let check = |text: &str, part: &str| {
        let file = format!("services: {{a: {{image: x, {text}}}}}\nmodels: {{m: {{model: ai/m}}}}");
        let error = project(&[("compose.yaml", &file)], &options(&[])).map(drop).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    };
    check("gpus: [{count: 1, device_ids: [a]}]", "\"count\" and \"device_ids\"");
    check("develop: {watch: [{path: ., action: sync+restart}]}", "needs \"target\"");
    check("healthcheck: {test: [curl, x]}", "begins with \"curl\"");
    check("models: [other]", "there is no model \"other\"");
    let file = "services: {a: {image: x, models: [m]}}\nmodels: {m: {model: ai/m}, unused: {model: ai/u}}";
    let project = project(&[("compose.yaml", file)], &options(&[])).unwrap();
    assert_eq!(project.models.keys().collect::<Vec<_>>(), ["m"]);
}

#[test]
fn a_label_file_counts_as_docker_compose_counts_it() {
    let file = "services: {a: {image: x, network_mode: none, label_file: labels}}";
    let mut project = project(&[("compose.yaml", file), ("labels", "fl=2")], &options(&[])).unwrap();
    // that of 2.40.3 on a container, where it stands in the same folder
    let hash = "72bb5e25f24dd69919834d1d1cafafd5dedf5225bf0f6fb6e65e9232d21127f0";
    assert_eq!(hash::service(&project.services["a"].node), hash);
    project.without_label_files();
    assert!(!emit::compact(&project.services["a"].node).contains("label_file"));
}
