//! Capabilities, seccomp, hidden paths, devices, and the process itself.

use super::{DEFAULT, Row, Subject};
use crate::model::SeccompChoice;
use crate::plan;
use oci_spec::runtime::{LinuxDeviceType, LinuxSeccompAction};
use std::collections::BTreeMap;

/// The word in a list of capabilities that means `name`.
fn added<'a>(list: &'a [String], name: &str) -> Option<&'a String> {
    list.iter().find(|asked| {
        let upper = asked.to_ascii_uppercase();
        Some(upper.strip_prefix("CAP_").unwrap_or(&upper)) == name.strip_prefix("CAP_")
    })
}

pub(super) fn capabilities(subject: &Subject<'_>) -> Vec<Row> {
    let spec = &subject.container.spec;
    let status = status(subject);
    let mask = |field: &str| {
        let hex = status.lines().find_map(|line| line.strip_prefix(field));
        hex.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
    };
    let sets = [
        ("bounding", mask("CapBnd:")),
        ("permitted", mask("CapPrm:")),
        ("effective", mask("CapEff:")),
        ("ambient", mask("CapAmb:")),
    ];
    let given = plan::capabilities::effective(spec, &subject.engine.inner.host).unwrap_or_default();
    let row = |(bit, name): (usize, &&'static str)| {
        let held: Vec<&str> = sets
            .iter()
            .filter(|(_, mask)| mask.is_some_and(|mask| mask >> bit & 1 == 1))
            .map(|(set, _)| *set)
            .collect();
        let value = if subject.live.is_some() { held.join(", ") } else { "bounding, permitted, effective".into() };
        if subject.live.is_some() && held.is_empty() || subject.live.is_none() && !given.contains(name) {
            return added(&spec.cap_drop, name).map(|flag| Row::new(*name, "none", format!("--cap-drop {flag}")));
        }
        let because = match added(&spec.cap_add, name) {
            Some(flag) => format!("--cap-add {flag}"),
            None if spec.privileged => "--privileged".into(),
            None if spec.cap_add.iter().any(|name| name.eq_ignore_ascii_case("all")) => "--cap-add ALL".into(),
            None => DEFAULT.into(),
        };
        Some(Row::new(*name, value, because))
    };
    oci::caps::ALL.iter().enumerate().filter_map(row).collect()
}

fn status(subject: &Subject<'_>) -> String {
    subject.live.and_then(|pid| std::fs::read_to_string(format!("/proc/{pid}/status")).ok()).unwrap_or_default()
}

pub(super) fn seccomp(subject: &Subject<'_>) -> Vec<Row> {
    let container = subject.container;
    let spec = &container.spec;
    let because = match (&spec.security.seccomp, spec.privileged) {
        (SeccompChoice::Unconfined, _) => "--security-opt seccomp=unconfined",
        (SeccompChoice::Default, true) => "--privileged",
        (SeccompChoice::Profile(_), _) => "--security-opt seccomp=FILE",
        (SeccompChoice::Default, false) => DEFAULT,
    };
    let status = status(subject);
    let mode = status.lines().find_map(|line| line.strip_prefix("Seccomp:")).map(str::trim);
    let mut rows = Vec::new();
    if let Some(mode) = mode {
        let words = match mode {
            "0" => "0 (no filter)",
            "2" => "2 (filter)",
            other => other,
        };
        rows.push(Row::new("mode", words, because));
    }
    let Ok(Some(program)) = subject.engine.inner.seccomp(container) else {
        rows.push(Row::new("filter", "none: every system call is allowed", because));
        return rows;
    };
    rows.push(Row::new("filter", format!("{} BPF instructions", program.instructions.len()), because));
    let names = plan::capabilities::effective(spec, &subject.engine.inner.host).unwrap_or_default();
    if let Ok(profile) = plan::security::profile(&spec.security.seccomp, &names) {
        let action = |action: LinuxSeccompAction, errno: Option<u32>| match errno {
            Some(errno) if action == LinuxSeccompAction::ScmpActErrno => format!("{action} {errno}"),
            _ => action.to_string(),
        };
        let default = action(profile.default_action(), profile.default_errno_ret());
        rows.push(Row::new(default, "every call that no rule names", because));
        let mut by_action: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for rule in profile.syscalls().iter().flatten() {
            let arguments =
                if rule.args().as_ref().is_some_and(|args| !args.is_empty()) { " (by argument)" } else { "" };
            let key = format!("{}{arguments}", action(rule.action(), rule.errno_ret()));
            by_action.entry(key).or_default().extend(rule.names().iter().cloned());
        }
        for (action, mut calls) in by_action {
            calls.sort();
            calls.dedup();
            rows.push(Row::new(action, format!("{} calls: {}", calls.len(), calls.join(" ")), because));
        }
    }
    rows
}

pub(super) fn masked(subject: &Subject<'_>) -> Vec<Row> {
    let spec = &subject.container.spec;
    let because = if spec.masked_paths.is_some() { "MaskedPaths of the API" } else { DEFAULT };
    plan::security::masked(spec).into_iter().map(|path| Row::new(path, "hidden", because)).collect()
}

pub(super) fn readonly(subject: &Subject<'_>) -> Vec<Row> {
    let spec = &subject.container.spec;
    let because = if spec.readonly_paths.is_some() { "ReadonlyPaths of the API" } else { DEFAULT };
    plan::security::readonly(spec).into_iter().map(|path| Row::new(path, "read-only", because)).collect()
}

pub(super) fn devices(subject: &Subject<'_>) -> Vec<Row> {
    let spec = &subject.container.spec;
    let Ok((nodes, rules)) = plan::devices::plan(spec) else { return Vec::new() };
    let letter = |kind: LinuxDeviceType| match kind {
        LinuxDeviceType::B => "b",
        LinuxDeviceType::A => "a",
        LinuxDeviceType::P => "p",
        LinuxDeviceType::C | LinuxDeviceType::U => "c",
    };
    let number = |number: Option<i64>| {
        number.filter(|number| *number >= 0).map_or_else(|| "*".to_owned(), |number| number.to_string())
    };
    let mut rows: Vec<Row> = ["null", "zero", "full", "random", "urandom", "tty"]
        .iter()
        .map(|name| Row::new(format!("/dev/{name}"), "node", DEFAULT))
        .collect();
    for node in &nodes {
        let shown = node.path().display().to_string();
        let request = spec.devices.iter().find(|request| shown.starts_with(&request.container));
        let because = match request {
            Some(request) => format!("--device {}:{}:{}", request.host, request.container, request.permissions),
            None => "--privileged".into(),
        };
        rows.push(Row::new(shown, format!("node {} {}:{}", letter(node.typ()), node.major(), node.minor()), because));
    }
    for (at, rule) in rules.iter().enumerate() {
        let what = if rule.allow() { "allow" } else { "deny" };
        let kind = letter(rule.typ().unwrap_or(LinuxDeviceType::A));
        let access = rule.access().clone().unwrap_or_default();
        let value = format!("{kind} {}:{} {access}", number(rule.major()), number(rule.minor()));
        let because = match spec.privileged {
            true => "--privileged",
            false if at <= plan::devices::DEFAULT_RULES.len() => DEFAULT,
            false => "--device, --device-cgroup-rule",
        };
        rows.push(Row::new(format!("{what} (devices cgroup)"), value, because));
    }
    rows
}

pub(super) fn process(subject: &Subject<'_>) -> Vec<Row> {
    let container = subject.container;
    let spec = &container.spec;
    let or_image = |own: bool, flag: &str| if own { flag.to_owned() } else { "image".to_owned() };
    let status = status(subject);
    let live = |field: &str| {
        status.lines().find_map(|line| line.strip_prefix(field)).map(|text| text.trim().replace('\t', " "))
    };
    let user = if container.process.user.is_empty() { "0" } else { &container.process.user };
    let mut rows = vec![
        Row::new(
            "command",
            container.process.args.join(" "),
            or_image(!spec.command.is_empty() || spec.entrypoint.is_some(), "command line"),
        ),
        Row::new("working directory", container.process.cwd.clone(), or_image(spec.working_dir.is_some(), "-w")),
        Row::new(
            "user",
            live("Uid:").map_or_else(|| user.to_owned(), |ids| format!("{user} (uids on the host: {ids})")),
            or_image(spec.user.is_some(), "-u"),
        ),
        Row::new(
            "stop signal",
            container.process.stop_signal.to_string(),
            if spec.stop_signal.is_some() { "--stop-signal" } else { DEFAULT },
        ),
        Row::new("terminal", spec.tty.to_string(), if spec.tty { "-t" } else { DEFAULT }),
        Row::new("input kept open", spec.open_stdin.to_string(), if spec.open_stdin { "-i" } else { DEFAULT }),
        Row::new("init", spec.init.to_string(), if spec.init { "--init" } else { DEFAULT }),
        Row::new(
            "no_new_privs",
            live("NoNewPrivs:").unwrap_or_else(|| u8::from(spec.security.no_new_privileges).to_string()),
            if spec.security.no_new_privileges { "--security-opt no-new-privileges" } else { DEFAULT },
        ),
    ];
    if let Some(profile) = &spec.security.apparmor {
        rows.push(Row::new("AppArmor", profile.clone(), "--security-opt apparmor="));
    }
    for limit in &spec.ulimits {
        rows.push(Row::new(format!("limit {}", limit.name), format!("{}:{}", limit.soft, limit.hard), "--ulimit"));
    }
    for (key, value) in &spec.sysctls {
        rows.push(Row::new(format!("sysctl {key}"), value.clone(), "--sysctl"));
    }
    for variable in &container.process.env {
        let own = spec.env.iter().any(|own| own.split('=').next() == variable.split('=').next());
        rows.push(Row::new("environment", variable.clone(), if own { "-e, --env-file" } else { "image ENV" }));
    }
    rows
}
