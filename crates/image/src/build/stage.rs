//! One stage, instruction by instruction: variables are replaced, the configuration grows, steps come out.

use std::collections::BTreeMap;

use oci::digest::Digest;

use super::config::{Change, EarlierCmd, ImageSpec, Layer, is_signal, ports, set_variable};
use super::copy::{self, Resolved, Selection};
use super::error::{BuildError, BuildFault};
use super::files::Files;
use super::graph::{Base, Graph, Images, Node, Options, Origin, Volumes, error, error_at};
use super::key::Canonical;
use super::plan::{Action, Contexts, Input, Recipe, RunMount, RunStep, Script, StagePlan, Step};
use crate::dockerfile::{
    Argument, Command, Dockerfile, Expander, Heredoc, Instruction, Kind, Link, Mount, Run, Span, Variables,
};
use crate::path;

/// The most bytes that all variables of a stage may have.
const ENV_MAX: usize = 1 << 20;
/// Arguments that exist without ARG.
const PROXIES: [&str; 5] = ["all_proxy", "ftp_proxy", "http_proxy", "https_proxy", "no_proxy"];

/// Behind BUILD and TARGET, what describes a platform.
const PLATFORM: [&str; 5] = ["ARCH", "OS", "PLATFORM", "STAGE", "VARIANT"];

/// Whether an argument may be given although no ARG names it.
pub(super) fn is_predefined(name: &str) -> bool {
    let lower = name.to_ascii_lowercase();
    PROXIES.contains(&lower.as_str())
        || name == "SOURCE_DATE_EPOCH"
        || name.starts_with("BUILDKIT_")
        || ["BUILD", "TARGET"]
            .iter()
            .filter_map(|prefix| name.strip_prefix(prefix))
            .any(|rest| PLATFORM.contains(&rest))
}

/// What all stages of a build share.
pub(super) struct Shared<'a> {
    pub(super) file: &'a Dockerfile,
    pub(super) graph: &'a Graph,
    pub(super) options: &'a Options,
    pub(super) images: &'a Images,
    contexts: &'a Contexts<'a>,
    pub(super) epoch: Option<i64>,
    pub(super) created: Option<String>,
}

impl<'a> Shared<'a> {
    pub(super) fn new(
        file: &'a Dockerfile,
        graph: &'a Graph,
        options: &'a Options,
        images: &'a Images,
        contexts: &'a Contexts<'a>,
    ) -> Self {
        let argument = options.arguments.get("SOURCE_DATE_EPOCH").and_then(|text| text.parse().ok());
        let epoch = options.epoch.or(argument);
        let created = epoch.and_then(|seconds| jiff::Timestamp::from_second(seconds).ok()).map(|time| time.to_string());
        Self { file, graph, options, images, contexts, epoch, created }
    }

    /// The files of an origin that [is given](Origin::is_given).
    pub(super) fn files(&self, origin: &Origin) -> &dyn Files {
        let named = match origin {
            Origin::Named(name) => self.contexts.named.get(name).copied(),
            _ => None,
        };
        named.unwrap_or(self.contexts.main)
    }
}

/// What a stage hands to those that begin with it.
#[derive(Debug, Clone)]
pub(super) struct End {
    spec: ImageSpec,
    env: Vec<String>,
    pub(super) arguments: Vec<(String, Option<String>)>,
    pub(super) warnings: Vec<String>,
}

pub(super) struct Stager<'a> {
    pub(super) shared: &'a Shared<'a>,
    pub(super) node: &'a Node,
    base_id: Option<Digest>,
    pub(super) spec: ImageSpec,
    /// ENV and ARG in the order in which they were set.
    pub(super) env: Vec<String>,
    arguments: Vec<(String, Option<String>)>,
    cmd: EarlierCmd,
    steps: Vec<Step>,
    pub(super) warnings: Vec<String>,
}

/// Variables as a list of `NAME=value`.
pub(super) struct Env<'a>(pub(super) &'a [String]);

impl Variables for Env<'_> {
    fn value(&self, name: &str) -> Option<&str> {
        self.0.iter().find_map(|entry| entry.split_once('=').filter(|(key, _)| *key == name).map(|(_, value)| value))
    }
}

/// What the files of a step are, in words for messages.
pub(super) fn place_name(origin: &Origin) -> String {
    match origin {
        Origin::Context => "the build context".to_owned(),
        Origin::Named(name) => format!("the context \"{name}\""),
        Origin::Stage(index) => format!("stage {index}"),
        Origin::Image(request) => format!("the image \"{}\"", request.name),
    }
}

impl<'a> Stager<'a> {
    pub(super) fn begin(
        shared: &'a Shared<'a>,
        node: &'a Node,
        ends: &BTreeMap<usize, End>,
    ) -> Result<Self, BuildError> {
        let mut base_id = None;
        let (mut spec, env, arguments) = match &node.base {
            Base::Scratch => (ImageSpec::scratch(node.platform.clone()), None, Vec::new()),
            Base::Stage(index) => match ends.get(index) {
                Some(end) => (end.spec.clone(), Some(end.env.clone()), end.arguments.clone()),
                None => {
                    let stage = index.to_string();
                    return Err(error(shared.file, node.span, BuildFault::Forward { stage }));
                }
            },
            Base::Image(request) => {
                let missing = || error(shared.file, node.span, BuildFault::MissingImage { name: request.name.clone() });
                let image = shared.images.get(request).ok_or_else(missing)?;
                base_id = Some(image.id);
                (image.spec.clone(), None, Vec::new())
            }
        };
        // triggers are for the first stage that begins with the image; they do not go on
        spec.config.on_build.clear();
        let env = env.unwrap_or_else(|| spec.config.env.clone());
        let (steps, warnings) = (Vec::new(), Vec::new());
        Ok(Self { shared, node, base_id, spec, env, arguments, cmd: EarlierCmd::Drop, steps, warnings })
    }

    pub(super) fn end(mut self) -> (StagePlan, End) {
        let end = End {
            spec: self.spec.clone(),
            env: self.env,
            arguments: self.arguments,
            warnings: std::mem::take(&mut self.warnings),
        };
        if self.node.index == self.shared.graph.target {
            self.spec.config.labels.extend(self.shared.options.labels.iter().cloned());
        }
        let stage = StagePlan {
            index: self.node.index,
            name: self.node.name.clone(),
            base: self.node.base.clone(),
            base_id: self.base_id,
            platform: self.node.platform.clone(),
            needs: self.node.needs.clone(),
            steps: self.steps,
            image: self.spec,
        };
        (stage, end)
    }

    pub(super) fn instruction(&mut self, instruction: &Instruction) -> Result<(), BuildError> {
        let (action, recipe) = self.carry_out(&instruction.kind, instruction.span)?;
        let place = self.shared.file.place(instruction.span);
        self.steps.push(Step { place, text: instruction.text.clone(), action, recipe });
        Ok(())
    }

    fn carry_out(&mut self, kind: &Kind, span: Span) -> Result<(Action, Option<Recipe>), BuildError> {
        let change = match kind {
            Kind::Add(transfer) => return self.transfer(transfer, "ADD", span),
            Kind::Copy(transfer) => return self.transfer(transfer, "COPY", span),
            Kind::Run(run) => return self.run(run, span),
            Kind::Workdir(path) => return self.workdir(path, span),
            Kind::Arg(names) => {
                self.arguments(names, span)?;
                return Ok((Action::Configure, None));
            }
            Kind::Cmd(command) => {
                self.cmd = EarlierCmd::Keep;
                Change::Cmd(command.clone())
            }
            Kind::Entrypoint(command) => Change::Entrypoint(command.clone(), self.cmd),
            Kind::Env(pairs) => {
                let pairs = self.pairs(pairs, span)?;
                pairs.iter().for_each(|(name, value)| set_variable(&mut self.env, name, value));
                self.check_env(span)?;
                Change::Env(pairs)
            }
            Kind::Expose(words) => Change::Expose(self.expose(words, span)?),
            Kind::Healthcheck(health) => Change::Healthcheck(health.clone()),
            Kind::Label(pairs) => Change::Label(self.pairs(pairs, span)?),
            Kind::Maintainer(name) => Change::Maintainer(name.clone()),
            Kind::OnBuild(trigger) => Change::OnBuild(trigger.clone()),
            Kind::Shell(words) => Change::Shell(words.clone()),
            Kind::StopSignal(signal) => {
                let value = self.word(signal, span)?;
                if !is_signal(&value) {
                    return Err(self.error_at(span, signal, BuildFault::Value { what: "signal", value }));
                }
                Change::StopSignal(value)
            }
            Kind::User(user) => Change::User(self.filled(user, "the user", span)?),
            Kind::Volume(paths) => {
                let paths = paths.iter().map(|path| self.filled(path, "a volume's path", span));
                Change::Volume(paths.collect::<Result<_, _>>()?)
            }
        };
        self.spec.apply(&change, self.shared.created.as_deref());
        Ok((Action::Configure, None))
    }

    pub(super) fn error(&self, span: Span, fault: impl Into<BuildFault>) -> BuildError {
        error(self.shared.file, span, fault)
    }

    pub(super) fn error_at(&self, span: Span, word: &str, fault: impl Into<BuildFault>) -> BuildError {
        error_at(self.shared.file, span, word, fault)
    }

    pub(super) fn word(&self, word: &str, span: Span) -> Result<String, BuildError> {
        let env = Env(&self.env);
        Expander::new(&env, self.shared.file.directives.escape)
            .word(word)
            .map_err(|source| self.error_at(span, word, BuildFault::Expand { word: word.to_owned(), source }))
    }

    pub(super) fn filled(&self, word: &str, what: &'static str, span: Span) -> Result<String, BuildError> {
        let value = self.word(word, span)?;
        if value.is_empty() { Err(self.error_at(span, word, BuildFault::Empty { what })) } else { Ok(value) }
    }

    fn pairs(&self, pairs: &[(String, String)], span: Span) -> Result<Vec<(String, String)>, BuildError> {
        pairs.iter().map(|(name, value)| Ok((self.filled(name, "a name", span)?, self.word(value, span)?))).collect()
    }

    fn check_env(&self, span: Span) -> Result<(), BuildError> {
        if self.env.iter().map(String::len).sum::<usize>() > ENV_MAX {
            return Err(self.error(span, BuildFault::Limit { what: "bytes of all variables", limit: ENV_MAX }));
        }
        Ok(())
    }

    /// A path that no file system would take is refused here, with its place.
    pub(super) fn check_path(&self, path: &str, word: &str, span: Span) -> Result<(), BuildError> {
        if path.len() > path::PATH_MAX {
            return Err(self.error_at(
                span,
                word,
                BuildFault::Limit { what: "bytes of a path", limit: path::PATH_MAX },
            ));
        }
        if path.split('/').any(|name| name.len() > path::NAME_MAX) {
            return Err(self.error_at(
                span,
                word,
                BuildFault::Limit { what: "bytes of a name", limit: path::NAME_MAX },
            ));
        }
        if path.contains('\0') {
            let value = path.replace('\0', "\u{fffd}");
            return Err(self.error_at(span, word, BuildFault::Value { what: "path", value }));
        }
        Ok(())
    }

    fn expose(&self, words: &[String], span: Span) -> Result<Vec<String>, BuildError> {
        let mut out = Vec::new();
        let env = Env(&self.env);
        for word in words {
            let expanded = Expander::new(&env, self.shared.file.directives.escape)
                .words(word)
                .map_err(|source| self.error_at(span, word, BuildFault::Expand { word: word.clone(), source }))?;
            for value in expanded {
                let what = "port: NUMBER, FROM-TO, or either with /tcp, /udp or /sctp";
                out.extend(ports(&value).ok_or_else(|| self.error_at(span, word, BuildFault::Value { what, value }))?);
            }
        }
        out.sort();
        out.dedup();
        Ok(out)
    }

    fn arguments(&mut self, names: &[Argument], span: Span) -> Result<(), BuildError> {
        let mut texts = Vec::new();
        for Argument { name, default } in names {
            let given = self.shared.options.arguments.get(name).cloned();
            let value = match (given, default) {
                (Some(value), _) => Some(value),
                (None, Some(default)) => Some(self.word(default, span)?),
                (None, None) => self.shared.graph.globals.get(name).cloned(),
            };
            if let Some(value) = &value {
                set_variable(&mut self.env, name, value);
            }
            texts.push(value.as_ref().map_or_else(|| name.clone(), |value| format!("{name}={value}")));
            self.arguments.push((name.clone(), value));
        }
        self.check_env(span)?;
        self.spec.note(format!("ARG {}", texts.join(" ")), Layer::None, self.shared.created.as_deref());
        Ok(())
    }

    fn workdir(&mut self, path: &str, span: Span) -> Result<(Action, Option<Recipe>), BuildError> {
        let path = self.spec.directory(&self.filled(path, "the path", span)?);
        self.check_path(&path, "", span)?;
        self.spec.config.working_dir.clone_from(&path);
        let created = self.shared.created.as_deref();
        if path == "/" {
            self.spec.note(format!("WORKDIR {path}"), Layer::None, created);
            return Ok((Action::Configure, None));
        }
        self.spec.note(format!("WORKDIR {path}"), Layer::One, created);
        let user = self.spec.config.user.clone();
        let mut canonical = self.canonical("WORKDIR");
        canonical.field("path", path.as_bytes());
        canonical.field("user", user.as_bytes());
        let recipe = Recipe { definition: canonical.finish(), inputs: Vec::new(), link: Link::No };
        Ok((Action::Directory { path, user }, Some(recipe)))
    }

    pub(super) fn canonical(&self, instruction: &str) -> Canonical {
        let mut canonical = Canonical::new("insula.build.definition.v1");
        canonical.field("instruction", instruction.as_bytes());
        canonical.field("platform", self.node.platform.to_string().as_bytes());
        if let Some(epoch) = self.shared.epoch {
            canonical.field("epoch", &epoch.to_be_bytes());
        }
        canonical
    }

    fn run(&mut self, run: &Run, span: Span) -> Result<(Action, Option<Recipe>), BuildError> {
        let (argv, script) = self.run_argv(run);
        let mut mounts = Vec::new();
        let mut inputs = Vec::new();
        for mount in &run.mounts {
            let mount = self.mount(mount, span)?;
            if let (Some(origin), Mount::Bind { source, .. } | Mount::Cache { source, .. }) =
                (&mount.origin, &mount.mount)
            {
                inputs.push(self.mount_input(origin, source, span)?);
            }
            mounts.push(mount);
        }
        let mut env: Vec<(String, String)> = self
            .env
            .iter()
            .filter_map(|entry| entry.split_once('='))
            .map(|(a, b)| (a.to_owned(), b.to_owned()))
            .collect();
        if !env.iter().any(|(name, _)| name == "PATH") {
            env.push(("PATH".to_owned(), super::config::DEFAULT_PATH.to_owned()));
        }
        let mut proxies = Vec::new();
        for (name, value) in &self.shared.options.arguments {
            let lower = name.to_ascii_lowercase();
            if PROXIES.contains(&lower.as_str()) && !env.iter().any(|(known, _)| known.eq_ignore_ascii_case(name)) {
                proxies.push((name.to_ascii_uppercase(), value.clone()));
                proxies.push((lower, value.clone()));
            }
        }
        let mut line = String::from("RUN ");
        let visible = self.visible_arguments();
        if !visible.is_empty() {
            line.push_str(&format!("|{} ", visible.len()));
            visible.iter().for_each(|(name, value)| line.push_str(&format!("{name}={value} ")));
        }
        line.push_str(&argv.join(" "));
        line.push_str(" # buildkit");
        let step = RunStep {
            argv,
            env,
            proxies,
            directory: if self.spec.config.working_dir.is_empty() {
                "/".into()
            } else {
                self.spec.config.working_dir.clone()
            },
            user: self.spec.config.user.clone(),
            mounts,
            volumes: self.reset_volumes(),
            network: run.network,
            security: run.security,
            script,
        };
        let definition = self.run_definition(&step);
        self.spec.note(line, Layer::One, self.shared.created.as_deref());
        Ok((Action::Run(Box::new(step)), Some(Recipe { definition, inputs, link: Link::No })))
    }

    /// The volumes so far, where nothing that RUN does stays in them.
    fn reset_volumes(&self) -> Vec<String> {
        match self.shared.options.volumes {
            Volumes::Kept => Vec::new(),
            Volumes::Reset => self.spec.config.volumes.keys().map(|path| self.spec.directory(path)).collect(),
        }
    }

    /// The arguments that RUN sees, with the values that they have now.
    fn visible_arguments(&self) -> Vec<(String, String)> {
        let mut out: Vec<(String, String)> = Vec::new();
        for (name, value) in &self.arguments {
            let now = Env(&self.env).value(name).map(str::to_owned).or_else(|| value.clone()).unwrap_or_default();
            match out.iter_mut().find(|(known, _)| known == name) {
                Some(known) => known.1 = now,
                None => out.push((name.clone(), now)),
            }
        }
        out
    }

    fn run_definition(&self, step: &RunStep) -> Digest {
        let mut canonical = self.canonical("RUN");
        step.argv.iter().for_each(|word| canonical.field("argument", word.as_bytes()));
        let mut env: Vec<_> = step.env.iter().collect();
        env.sort();
        for (name, value) in env {
            canonical.field("variable", name.as_bytes());
            canonical.field("value", value.as_bytes());
        }
        canonical.field("directory", step.directory.as_bytes());
        canonical.field("user", step.user.as_bytes());
        canonical.number("network", step.network as u64);
        canonical.number("security", step.security as u64);
        if let Some(script) = &step.script {
            canonical.field("script", script.path.as_bytes());
            canonical.field("text", script.contents.as_bytes());
        }
        step.volumes.iter().for_each(|path| canonical.field("volume", path.as_bytes()));
        for RunMount { mount, .. } in &step.mounts {
            mount_definition(mount, &mut canonical);
        }
        canonical.finish()
    }

    /// What is run: here-documents are taken apart where the shell need not know of them.
    fn run_argv(&self, run: &Run) -> (Vec<String>, Option<Script>) {
        let (Command::Shell(line), [first, ..]) = (&run.command, &run.heredocs[..]) else {
            return (self.spec.argv(&run.command), None);
        };
        if is_only_heredoc(line, first) {
            let contents = first.text();
            if contents.starts_with("#!") {
                let path = format!("/dev/pipes/{}", first.name.replace('/', "_"));
                return (vec![path.clone()], Some(Script { path, contents }));
            }
            return (self.spec.argv(&Command::Shell(contents)), None);
        }
        let mut text = line.clone();
        for heredoc in &run.heredocs {
            text.push('\n');
            text.push_str(&heredoc.contents);
            text.push_str(&heredoc.name);
        }
        (self.spec.argv(&Command::Shell(text)), None)
    }

    fn mount(&self, mount: &Mount, span: Span) -> Result<RunMount, BuildError> {
        let mut mount = mount.clone();
        let word = |text: &mut String| -> Result<(), BuildError> {
            *text = self.word(text, span)?;
            Ok(())
        };
        let target = |text: &mut String| -> Result<(), BuildError> {
            *text = self.spec.directory(&self.filled(text, "a mount's target", span)?);
            Ok(())
        };
        let mut origin = None;
        let named = |from: &Option<String>| match from {
            Some(name) => self.node.origins.get(name).cloned(),
            None => Some(Origin::Context),
        };
        match &mut mount {
            Mount::Bind { from, source, target: at, .. } => {
                word(source)?;
                target(at)?;
                origin = named(from);
            }
            Mount::Cache { id, from, source, target: at, .. } => {
                word(id)?;
                word(source)?;
                target(at)?;
                origin = from.as_ref().and_then(|_| named(from));
            }
            Mount::Tmpfs { target: at, .. } => target(at)?,
            Mount::Secret { id, target: at, env, .. } => {
                word(id)?;
                at.as_mut().map_or(Ok(()), target)?;
                env.as_mut().map_or(Ok(()), word)?;
            }
            Mount::Ssh { id, target: at, .. } => {
                word(id)?;
                at.as_mut().map_or(Ok(()), target)?;
            }
        }
        Ok(RunMount { mount, origin })
    }

    fn mount_input(&self, origin: &Origin, source: &str, span: Span) -> Result<Input, BuildError> {
        match origin {
            Origin::Stage(index) => Ok(Input::Stage(*index)),
            Origin::Image(_) => self.image_input(origin, span),
            Origin::Context | Origin::Named(_) => {
                let source = if source.is_empty() { "/" } else { source };
                let selection = Selection { sources: vec![source.to_owned()], ..Selection::default() };
                let found = self.resolve(origin, &selection, span)?;
                Ok(Input::Content(copy::digest(&found)))
            }
        }
    }

    pub(super) fn image_input(&self, origin: &Origin, span: Span) -> Result<Input, BuildError> {
        let Origin::Image(request) = origin else { return Ok(Input::Content(Digest::of(b""))) };
        match self.shared.images.get(request) {
            Some(image) => Ok(Input::Content(image.id)),
            None => Err(self.error(span, BuildFault::MissingImage { name: request.name.clone() })),
        }
    }

    pub(super) fn resolve(
        &self,
        origin: &Origin,
        selection: &Selection,
        span: Span,
    ) -> Result<Vec<Resolved>, BuildError> {
        let mut found = copy::resolve(self.shared.files(origin), selection, &place_name(origin)).map_err(|source| {
            let missing = match &source {
                copy::CopyError::Missing { source_path, .. } => source_path.clone(),
                _ => String::new(),
            };
            let mut wrong = self.error_at(span, &missing, source);
            if !missing.is_empty() {
                wrong.hint = Some("paths begin at the context's root; does .dockerignore leave it out?".to_owned());
            }
            wrong
        })?;
        // whoever owns the files on this machine has nothing to do with the image
        for entry in found.iter_mut().flat_map(|resolved| &mut resolved.entries) {
            (entry.file.stat.uid, entry.file.stat.gid) = (0, 0);
        }
        Ok(found)
    }
}

/// What a mount is, without what is in it: caches, secrets and agents change nothing about a key.
fn mount_definition(mount: &Mount, canonical: &mut Canonical) {
    match mount {
        Mount::Bind { source, target, access, .. } => {
            canonical.field("bind", target.as_bytes());
            canonical.field("source", source.as_bytes());
            canonical.number("access", *access as u64);
        }
        Mount::Cache { target, .. } => canonical.field("cache", target.as_bytes()),
        Mount::Tmpfs { target, .. } => canonical.field("tmpfs", target.as_bytes()),
        Mount::Secret { target, env, .. } => {
            canonical.field("secret", target.as_deref().unwrap_or_default().as_bytes());
            canonical.field("variable", env.as_deref().unwrap_or_default().as_bytes());
        }
        Mount::Ssh { target, .. } => canonical.field("ssh", target.as_deref().unwrap_or_default().as_bytes()),
    }
}

/// Whether a RUN line is nothing but the opening of this here-document.
fn is_only_heredoc(line: &str, heredoc: &Heredoc) -> bool {
    let rest = line.trim().trim_start_matches(|c: char| c.is_ascii_digit());
    let Some(rest) = rest.strip_prefix("<<") else { return false };
    let rest = rest.strip_prefix('-').unwrap_or(rest);
    [heredoc.name.clone(), format!("\"{}\"", heredoc.name), format!("'{}'", heredoc.name)]
        .iter()
        .any(|form| rest == form)
}
