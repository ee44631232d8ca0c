//! `insula system check`: everything in the image store against its digests.

use crate::client::Client;
use crate::context::Context;
use crate::failure::Outcome;
use crate::flags::{Action, Command, Parsed};
use crate::{output, table};

pub(crate) static COMMAND: Command = Command {
    name: "check",
    about: "Read all images again and compare them with their digests",
    action: Action::Run(check),
    ..Command::BLANK
};

fn check(context: &Context, _: &Parsed) -> Outcome {
    let answer = Client::new(context).get("/insula/images/check")?;
    let problems = table::elements(&answer, "");
    for problem in problems {
        output::line(&format!("{}: {}", table::text(problem, "/Object"), table::text(problem, "/Description")));
    }
    if problems.is_empty() {
        output::line("all images are as they should be");
    }
    Ok(u8::from(!problems.is_empty()))
}
