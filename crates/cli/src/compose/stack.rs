//! A project and the daemon that it runs on.

use std::collections::BTreeMap;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use compose::create::label;
use compose::load::Variables;
use compose::project::{Dependencies, Service};
use compose::{FileError, Loader, Options, Project};
use serde_json::{Value, json};

use super::progress::{Board, Show};
use crate::client::{Client, Query};
use crate::context::Context;
use crate::failure::{During as _, Failure};
use crate::flags::Parsed;
use crate::{output, table};

/// Whether the daemon is told to do what is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    Real,
    DryRun,
}

/// A project and the daemon that it runs on.
pub(super) struct Stack {
    pub(super) context: Context,
    pub(super) project: Project,
    pub(super) board: Board,
    pub(super) mode: Mode,
    /// How many things are done at once.
    pub(super) limit: usize,
}

/// A container of the project.
#[derive(Debug, Clone)]
pub(super) struct Member {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) service: String,
    pub(super) number: usize,
    pub(super) one_off: bool,
    /// `running`, `exited`, …
    pub(super) state: String,
    /// As the list has it.
    pub(super) listed: Value,
}

impl Member {
    fn new(listed: Value) -> Self {
        let name = table::elements(&listed, "/Names").first().and_then(Value::as_str).unwrap_or_default();
        let name = name.strip_prefix('/').unwrap_or(name).to_owned();
        let mut member = Self {
            id: table::text(&listed, "/Id").to_owned(),
            name,
            service: String::new(),
            number: 0,
            one_off: false,
            state: table::text(&listed, "/State").to_owned(),
            listed,
        };
        member.service = member.label(label::SERVICE).to_owned();
        member.number = member.label(label::NUMBER).parse().unwrap_or(0);
        member.one_off = member.label(label::ONE_OFF).eq_ignore_ascii_case("true");
        member
    }

    pub(super) fn label(&self, name: &str) -> &str {
        let labels = self.listed.get("Labels");
        labels.and_then(|labels| labels.get(name)).and_then(Value::as_str).unwrap_or_default()
    }

    pub(super) fn is_running(&self) -> bool {
        self.state == "running"
    }

    /// The name without the project's, as log lines begin: `web-1`.
    pub(super) fn short_name(&self, project: &str) -> String {
        short_name(project, &self.name).to_owned()
    }
}

/// A container's name without its project's.
pub(super) fn short_name<'a>(project: &str, name: &'a str) -> &'a str {
    name.strip_prefix(project).and_then(|rest| rest.strip_prefix(['-', '_'])).unwrap_or(name)
}

/// Which of the project's containers are meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Those of services.
    Service,
    /// Those of single programs as well.
    All,
}

/// Reads a file, or standard input for `-`.
fn read(path: &Path) -> io::Result<String> {
    if path == Path::new("-") {
        let mut text = String::new();
        io::stdin().lock().read_to_string(&mut text)?;
        return Ok(text);
    }
    std::fs::read_to_string(path)
}

/// What the user has said of files, name and variables.
pub(super) fn options(given: &Parsed) -> Result<Options, Failure> {
    let paths = |flag: &'static str| given.values(flag).map(PathBuf::from).collect::<Vec<_>>();
    Ok(Options {
        files: paths("file"),
        directory: given.value("project-directory").map(PathBuf::from),
        name: given.value("project-name").map(str::to_owned),
        env_files: paths("env-file"),
        profiles: given.values("profile").map(str::to_owned).collect(),
        environment: std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect(),
        current: std::env::current_dir().during(|| "cannot find the present folder".to_owned())?,
        variables: Variables::Replaced,
    })
}

/// Reads the files; standard input is read once for all askings.
pub(super) fn load(options: &Options) -> Result<compose::load::Loaded, Failure> {
    let stdin: Mutex<Option<String>> = Mutex::new(None);
    let read_once = |path: &Path| {
        if path != Path::new("-") {
            return read(path);
        }
        let mut kept = stdin.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if kept.is_none() {
            *kept = Some(read(path)?);
        }
        Ok(kept.clone().unwrap_or_default())
    };
    Ok(Loader::new(&read_once).load(options)?)
}

/// The whole project: with `wanted` services whatever their profiles are. Their env files are not read yet, because those of
/// services that take no part may be missing.
pub(super) fn project(given: &Parsed, wanted: &[String]) -> Result<Project, Failure> {
    let loaded = load(&options(given)?)?;
    let mut project = Project::new(loaded, wanted)?;
    let old_names = project.environment.get("COMPOSE_COMPATIBILITY").map(String::as_str);
    if given.on("compatibility") || matches!(old_names, Some("1" | "true" | "True" | "TRUE")) {
        project.separator = '_';
    }
    for warning in &project.warnings {
        output::note(&format!("warning: {warning}"));
    }
    Ok(project)
}

impl Stack {
    /// The project with the services that are named and what they need, and the daemon.
    pub(super) fn new(
        context: &Context,
        given: &Parsed,
        services: &[String],
        dependencies: Dependencies,
    ) -> Result<Self, Failure> {
        let mut project = project(given, services)?;
        project.select(services, dependencies).map_err(|error: FileError| Failure::from(error))?;
        if !given.on("all-resources") {
            project.drop_unused();
        }
        names_are_unique(&project)?;
        resolve(&mut project)?;
        Self::of(context, given, project)
    }

    /// A project that may have no file: a name is enough for its containers to be found, and what they tell of each other. Given by
    /// a flag and without files, it is all that counts.
    pub(super) fn found(context: &Context, given: &Parsed, services: &[String]) -> Result<Self, Failure> {
        let named = given.value("project-name").filter(|name| !name.is_empty());
        if let Some(name) = named.filter(|_| given.values("file").next().is_none()) {
            let project = from_containers(context, name)?;
            return Self::of(context, given, project);
        }
        match Self::of_files(context, given, services) {
            Ok(stack) => Ok(stack),
            Err(failure) => {
                let named = std::env::var("COMPOSE_PROJECT_NAME").ok().filter(|name| !name.is_empty());
                let Some(name) = named else { return Err(failure) };
                let project = from_containers(context, &name)?;
                Self::of(context, given, project)
            }
        }
    }

    fn of_files(context: &Context, given: &Parsed, services: &[String]) -> Result<Self, Failure> {
        let mut project = project(given, services)?;
        if !given.on("all-resources") {
            project.drop_unused();
        }
        let known = |name: &&String| project.services.contains_key(*name) || project.disabled.contains_key(*name);
        if let Some(other) = services.iter().find(|name| !known(name)) {
            return Err(Failure::new(format!("no such service: {other}")));
        }
        Self::of(context, given, project)
    }

    fn of(context: &Context, given: &Parsed, project: Project) -> Result<Self, Failure> {
        let board = Board::new(Show::find(given, &project)?);
        let mode = if given.on("dry-run") { Mode::DryRun } else { Mode::Real };
        let limit = given
            .value("parallel")
            .map(str::to_owned)
            .or_else(|| project.environment.get("COMPOSE_PARALLEL_LIMIT").cloned());
        let limit = limit.and_then(|text| text.parse::<usize>().ok()).filter(|limit| *limit > 0);
        // A thread each, of which a hundred do no harm.
        Ok(Self { context: context.clone(), project, board, mode, limit: limit.unwrap_or(64) })
    }

    pub(super) fn client(&self) -> Client {
        Client::new(&self.context)
    }

    /// The project's containers, by service and number.
    pub(super) fn members(&self, kind: Kind) -> Result<Vec<Member>, Failure> {
        let mut labels = vec![format!("{}={}", label::PROJECT, self.project.name)];
        match kind {
            Kind::Service => labels.push(format!("{}=False", label::ONE_OFF)),
            Kind::All => {}
        }
        list(&mut self.client(), &labels)
    }

    /// The containers of certain services, or of all.
    pub(super) fn members_of(&self, services: &[String], kind: Kind) -> Result<Vec<Member>, Failure> {
        let mut members = self.members(kind)?;
        members.retain(|member| services.is_empty() || services.contains(&member.service));
        Ok(members)
    }

    /// The services that a command is for: those that were named, or all of the files; all that there are where no file tells.
    pub(super) fn meant(&self, named: &[String]) -> Vec<String> {
        let all = named.is_empty() && !self.project.files.is_empty();
        if all { self.project.services.keys().cloned().collect() } else { named.to_vec() }
    }

    /// One container of a service that runs: the one with the number, or the first. Among those of single programs is looked where
    /// `kind` says so and there is no other.
    pub(super) fn member(&self, service: &str, index: Option<usize>, kind: Kind) -> Result<Member, Failure> {
        let mut members = self.members_of(&[service.to_owned()], kind)?;
        members.retain(Member::is_running);
        members.sort_by_key(|member| member.one_off);
        let found = members.into_iter().find(|member| match index {
            Some(index) => !member.one_off && member.number == index,
            None => true,
        });
        found.ok_or_else(|| match index {
            Some(index) => Failure::new(format!("service {service:?} is not running container #{index}")),
            None => Failure::new(format!(
                "service {service:?} is not running; start it with: insula compose up -d {service}"
            )),
        })
    }

    /// Does something with each thing, as many at once as the user allows; the first failure is the answer.
    pub(super) fn each<T: Sync, R: Send>(
        &self,
        things: &[T],
        act: impl Fn(&T) -> Result<R, Failure> + Sync,
    ) -> Result<Vec<R>, Failure> {
        let mut done = Vec::with_capacity(things.len());
        for part in things.chunks(self.limit.max(1)) {
            let results: Vec<Result<R, Failure>> = std::thread::scope(|scope| {
                let threads: Vec<_> = part.iter().map(|thing| scope.spawn(|| act(thing))).collect();
                let lost = || Err(Failure::new("a worker of the command failed"));
                threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| lost())).collect()
            });
            for result in results {
                done.push(result?);
            }
        }
        Ok(done)
    }
}

/// Containers by their labels, by service and number.
pub(super) fn list(client: &mut Client, labels: &[String]) -> Result<Vec<Member>, Failure> {
    let query = Query::default().with("all", "1").with("filters", &json!({"label": labels}).to_string());
    let listed = client.get(&query.behind("/containers/json"))?;
    let mut members: Vec<Member> = table::elements(&listed, "").iter().cloned().map(Member::new).collect();
    members.sort_by(|a, b| (&a.service, a.number, &a.name).cmp(&(&b.service, b.number, &b.name)));
    Ok(members)
}

/// Reads env files and label files of the services that take part.
pub(super) fn resolve(project: &mut Project) -> Result<(), Failure> {
    Ok(project.resolve(&read)?)
}

/// Looks for a name that two services' containers are to have.
pub(super) fn names_are_unique(project: &Project) -> Result<(), Failure> {
    let mut owners: BTreeMap<&str, &str> = BTreeMap::new();
    for service in project.services.values() {
        let Some(name) = service.spec.container_name.as_deref() else { continue };
        if let Some(other) = owners.insert(name, &service.name) {
            return Err(Failure::new(format!(
                "container name {name:?} is already in use by service {other:?}, and service {:?} has it as well; rename one",
                service.name
            )));
        }
    }
    Ok(())
}

/// A project of which only the name is known: its services as the containers' labels tell of them.
fn from_containers(context: &Context, name: &str) -> Result<Project, Failure> {
    let labels = [format!("{}={name}", label::PROJECT), format!("{}=False", label::ONE_OFF)];
    let mut project = nameless(name.to_owned());
    for member in list(&mut Client::new(context), &labels)? {
        if member.service.is_empty() || project.services.contains_key(&member.service) {
            continue;
        }
        let needs: serde_json::Map<String, Value> = member
            .label(label::DEPENDS_ON)
            .split(',')
            .filter(|text| !text.is_empty())
            .map(|text| {
                let mut parts = text.split(':');
                let other = parts.next().unwrap_or_default().to_owned();
                let condition = parts.next().unwrap_or("running_or_healthy");
                let restart = parts.next().is_none_or(|restart| restart == "true");
                (other, json!({"condition": condition, "restart": restart, "required": true}))
            })
            .collect();
        let tree = json!({"image": table::text(&member.listed, "/Image"), "depends_on": needs}).to_string();
        for node in compose::yaml::parse(&tree, "labels")? {
            project.services.insert(member.service.clone(), Service::new(&member.service, node)?);
        }
    }
    Ok(project)
}

fn nameless(name: String) -> Project {
    Project {
        name,
        separator: '-',
        directory: PathBuf::new(),
        files: Vec::new(),
        environment: BTreeMap::new(),
        profiles: Vec::new(),
        services: BTreeMap::new(),
        disabled: BTreeMap::new(),
        networks: BTreeMap::new(),
        volumes: BTreeMap::new(),
        secrets: BTreeMap::new(),
        configs: BTreeMap::new(),
        models: BTreeMap::new(),
        rest: compose::node::Map::default(),
        warnings: Vec::new(),
        variables: BTreeMap::new(),
        lent: BTreeMap::new(),
    }
}
