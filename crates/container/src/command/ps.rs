//! `ps`: the processes of a container.

use super::flags::{Command, Flag, Order, Parsed};
use super::{Context, Failure, Outcome, print};
use crate::error::Doing as _;
use crate::runtime::life::Known;

static FLAGS: [Flag; 1] = [Flag::value("format", "table or json (default: table)").letter('f')];

pub(super) static COMMAND: Command = Command {
    name: "ps",
    usage: "[FLAGS] ID [ARGUMENTS OF PS]",
    about: "show the processes of a container",
    flags: &[&FLAGS],
    order: Order::FlagsFirst,
    arguments: (1, usize::MAX),
    failure_code: 1,
    run,
};

fn run(context: &Context, parsed: &Parsed) -> Outcome {
    let known = Known::find(&context.root, parsed.id())?;
    let pids = known.group()?.pids().doing(|| "cannot list the container's processes")?;
    match parsed.value("format").unwrap_or("table") {
        "json" => {
            let text = serde_json::to_string(&pids).map_err(|error| Failure::new(error.to_string()))?;
            print(&format!("{text}\n"));
        }
        "table" => print(&table(parsed.arguments.get(1..).unwrap_or_default(), &pids)?),
        other => return Err(Failure::new(format!("invalid format option {other:?}: table and json are known"))),
    }
    Ok(0)
}

/// What ps(1) says of these processes.
fn table(arguments: &[String], pids: &[i32]) -> Result<String, Failure> {
    let mut command = std::process::Command::new("ps");
    if arguments.is_empty() {
        command.arg("-ef");
    }
    let output = command.args(arguments).output().map_err(|error| Failure::new(format!("ps: {error}")))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(Failure::new(format!("ps ended with {}: {}", output.status, said.trim())));
    }
    pick(&String::from_utf8_lossy(&output.stdout), pids)
}

/// The lines whose column PID has one of these numbers.
fn pick(table: &str, pids: &[i32]) -> Result<String, Failure> {
    let mut lines = table.lines();
    let head = lines.next().unwrap_or_default();
    let column = head.split_whitespace().position(|name| name == "PID");
    let column = column.ok_or_else(|| Failure::new("couldn't find PID field in ps output"))?;
    let mut text = format!("{head}\n");
    for line in lines {
        let pid = line.split_whitespace().nth(column).and_then(|field| field.parse::<i32>().ok());
        if pid.is_some_and(|pid| pids.contains(&pid)) {
            text += &format!("{line}\n");
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lines_of_the_containers_processes_are_picked() {
        let table = "UID  PID PPID CMD\nroot  1  0 init\nroot 17  1 sleep 1\nroot 170 1 x\n";
        assert_eq!(pick(table, &[17]).unwrap(), "UID  PID PPID CMD\nroot 17  1 sleep 1\n");
        pick("USER COMMAND\n", &[1]).unwrap_err();
    }
}
