//! `insula doctor`: what this host can do for isolation.

use docker_wire::extra::{Doctor, Verdict};

use crate::client::Client;
use crate::context::Context;
use crate::failure::{During as _, Outcome};
use crate::flags::{Action, Command, Flag, Parsed};
use crate::{output, table};

pub(crate) static COMMAND: Command = Command {
    name: "doctor",
    usage: "[OPTIONS]",
    about: "Try what this host can do for isolation; exit code 1 if something is missing",
    flags: &[&[Flag::switch("json", "Show as JSON")]],
    action: Action::Run(doctor),
    ..Command::BLANK
};

fn doctor(context: &Context, given: &Parsed) -> Outcome {
    let raw = Client::new(context).get_bytes("/insula/doctor")?;
    let mut doctor: Doctor = serde_json::from_slice(&raw).during(|| "the daemon's checks are none".to_owned())?;
    doctor.checks.push(crate::vm::check());
    let missing = doctor.checks.iter().any(|check| check.verdict == Verdict::Missing);
    if given.on("json") {
        let whole = serde_json::to_vec(&doctor).during(|| "writing the checks".to_owned())?;
        output::line(&table::pretty(&whole));
        return Ok(u8::from(missing));
    }
    let mut rows = vec![vec!["CHECK".to_owned(), "VERDICT".to_owned(), "FOUND".to_owned()]];
    for check in &doctor.checks {
        let verdict = match check.verdict {
            Verdict::Good => "good",
            Verdict::Fallback => "fallback",
            Verdict::Missing => "missing",
        };
        let remedy = check.remedy.as_ref().map(|remedy| format!("; {remedy}")).unwrap_or_default();
        rows.push(vec![check.name.clone(), verdict.to_owned(), format!("{}{remedy}", check.detail)]);
    }
    output::print(&table::align(&rows));
    Ok(u8::from(missing))
}
