//! `insula compose wait`.

use serde_json::Value;

use super::stack::{Kind, Member, Stack};
use super::{COMMON, down};
use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::flags::{Action, Command, Flag, Parsed};
use crate::{container, output};

pub(super) static COMMAND: Command = Command {
    name: "wait",
    usage: "[OPTIONS] SERVICE...",
    about: "Wait until services' containers have ended, and end as the first does",
    flags: &[COMMON, &[Flag::switch("down-project", "Stop and remove the project then")]],
    arguments: (1, Command::MANY),
    action: Action::Run(wait),
    ..Command::BLANK
};

fn wait(context: &Context, given: &Parsed) -> Outcome {
    let stack = Stack::found(context, given, &given.arguments)?;
    let members = stack.members_of(&given.arguments, Kind::Service)?;
    if members.is_empty() {
        return Err(Failure::new(format!("no containers for project {:?}", stack.project.name)));
    }
    let one = |member: &Member| -> Result<i64, Failure> {
        let mut client = stack.client();
        let ended = client.post(&format!("/containers/{}/wait", member.id))?;
        let code = ended.get("StatusCode").and_then(Value::as_i64).unwrap_or_default();
        output::line(&format!("container {:?} exited with status code {code}", member.name));
        Ok(code)
    };
    let code = if given.on("down-project") {
        // the first of them is enough
        let (sender, first) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            for member in &members {
                let (sender, one) = (sender.clone(), &one);
                scope.spawn(move || sender.send(one(member)));
            }
            let code = first.recv().unwrap_or_else(|_| Err(Failure::new("nothing was waited for")));
            // which ends the others as well
            let done = down::take_down(context, given, &[]);
            code.and_then(|code| done.map(|_| code))
        })?
    } else {
        stack.each(&members, one)?.into_iter().next().unwrap_or(0)
    };
    Ok(container::run::exit_code(code))
}
