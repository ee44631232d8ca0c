//! `insula update`.

use docker_wire::models::HostConfig;
use serde_json::Value;

use crate::container::create::restart_policy;
use crate::container::{each, path};
use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::flags::{Action, Command, Flag, Parsed};
use crate::value::number;
use crate::{output, table};

pub(crate) static COMMAND: Command = Command {
    name: "update",
    usage: "[OPTIONS] CONTAINER...",
    about: "Change the limits of containers",
    flags: &[&[
        Flag::value("blkio-weight", "WEIGHT", "Share of block I/O, 10 to 1000"),
        Flag::value("cpu-period", "MICROSECONDS", "Length of a processor quota's period"),
        Flag::value("cpu-quota", "MICROSECONDS", "Processor time in a period"),
        Flag::value("cpu-shares", "SHARES", "Share of processor time where it is scarce").short('c'),
        Flag::value("cpus", "NUMBER", "Processors' worth of time, as in 1.5"),
        Flag::value("cpuset-cpus", "LIST", "Processors to run on, as in 0-2,4"),
        Flag::value("cpuset-mems", "LIST", "Memory nodes to use, as in 0,1"),
        Flag::value("memory", "BYTES", "Limit memory, as in 512m").short('m'),
        Flag::value("memory-reservation", "BYTES", "Memory to keep under pressure"),
        Flag::value("memory-swap", "BYTES", "Limit memory and swap together; -1 for no limit"),
        Flag::value("pids-limit", "NUMBER", "Limit processes and threads; -1 for no limit"),
        Flag::value("restart", "POLICY", "Start again: no, on-failure[:TIMES], always or unless-stopped"),
    ]],
    arguments: (1, Command::MANY),
    action: Action::Run(update),
    ..Command::BLANK
};

fn update(context: &Context, given: &Parsed) -> Outcome {
    let change = HostConfig {
        blkio_weight: given.read("blkio-weight", number::blkio_weight)?,
        cpu_period: given.read("cpu-period", number::integer)?,
        cpu_quota: given.read("cpu-quota", number::integer)?,
        cpu_shares: given.read("cpu-shares", number::integer)?,
        nano_cpus: given.read("cpus", number::nano_cpus)?,
        cpuset_cpus: given.read("cpuset-cpus", number::cpu_list)?,
        cpuset_mems: given.read("cpuset-mems", number::cpu_list)?,
        memory: given.read("memory", number::bytes)?,
        memory_reservation: given.read("memory-reservation", number::bytes)?,
        memory_swap: given.read("memory-swap", number::bytes_or_unlimited)?,
        pids_limit: given.read("pids-limit", number::integer)?,
        restart_policy: given.read("restart", restart_policy)?,
        ..HostConfig::default()
    };
    if change == HostConfig::default() {
        return Err(Failure::new("nothing to change; give at least one option, as in --memory 512m"));
    }
    each(context, given, |client, name| {
        let answer = client.post_json(&path(name, "/update"), &change)?;
        for warning in table::elements(&answer, "/Warnings").iter().filter_map(Value::as_str) {
            output::note(&format!("warning: {warning}"));
        }
        Ok(name.to_owned())
    })
}
