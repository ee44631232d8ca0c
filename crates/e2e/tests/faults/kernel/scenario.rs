//! A command of the runtime that something happens to, with what goes before it and what a user does after.

use std::fmt;

use serde_json::json;
use testkit::stage::{ID, Stage};

use super::point::{CALLS, Point, points};

/// What happens before the command, the command, and what a user does when it did not end well. In these, `oci` is the
/// runtime, `$true` the bundle of a program that ends at once, `$long` of one that runs on.
struct Plan {
    name: &'static str,
    before: &'static str,
    attacked: &'static str,
    /// Must succeed after the command was killed; what it ends with is printed as `settled`.
    settle: &'static str,
}

/// Sorted by name.
const PLANS: &[Plan] = &[
    Plan { name: "create", before: ":", attacked: "create --bundle $true $id", settle: ":" },
    Plan {
        name: "delete",
        before: "oci run --detach --bundle $true $id; until oci state $id | grep -q '\"stopped\"'; do sleep 0.01; done",
        attacked: "delete $id",
        settle: ":",
    },
    Plan {
        name: "exec",
        before: "oci run --detach --bundle $long $id",
        attacked: "exec $id /bin/true",
        settle: "oci exec $id /bin/true",
    },
    Plan {
        name: "kill",
        before: "oci run --detach --bundle $long $id",
        attacked: "kill $id KILL",
        settle: "oci kill $id KILL || oci state $id | grep -q '\"stopped\"'",
    },
    Plan { name: "run", before: ":", attacked: "run --bundle $true $id", settle: ":" },
    Plan { name: "start", before: "oci create --bundle $true $id", attacked: "start $id", settle: ":" },
];

/// See the module.
pub(super) struct Scenario {
    plan: &'static Plan,
    stage: Stage,
    runtime: String,
}

/// What one attack gave.
pub(super) struct Outcome {
    /// The command's exit code.
    pub(super) attacked: i32,
    /// What the command said.
    pub(super) said: String,
    /// The exit code of a run with the same id right after it; none where the scenario's container still is.
    pub(super) at_once: Option<i32>,
    /// Of what a user does next.
    pub(super) settled: i32,
    /// Of the forced removal.
    pub(super) deleted: i32,
    /// Of a run with the same id after that.
    pub(super) again: i32,
    /// All that was printed.
    pub(super) log: String,
    /// What is in the cell at the end.
    pub(super) left: Vec<String>,
}

impl fmt::Debug for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { attacked, at_once, settled, deleted, again, log, left, .. } = self;
        let codes =
            format!("attacked {attacked}, at once {at_once:?}, settled {settled}, deleted {deleted}, again {again}");
        write!(f, "{codes}\n{log}{}", left.join("\n"))
    }
}

impl Scenario {
    /// Prepares the two bundles; `None` if this machine can't, with the reason printed.
    pub(super) fn open(name: &'static str) -> Option<Self> {
        let plan = PLANS.iter().find(|plan| plan.name == name).unwrap();
        let stage = Stage::open(&["/bin/true"], &["strace"])?;
        let _ = stage.bundle.write();
        let mut long = stage.bundle.config.clone();
        long["process"]["args"] = json!(["/bin/sleep", "1000"]);
        long["root"]["path"] = json!(stage.bundle.rootfs().display().to_string());
        let _ = stage.cell.island().file("long/config.json", &long.to_string());
        let runtime = testkit::bundle::runtime().display().to_string();
        Some(Self { plan, stage, runtime })
    }

    /// All points of the command, from a run in which nothing happens to it.
    pub(super) fn points(&self) -> Vec<Point> {
        let traced = self.script(&format!("-e trace=?{}", CALLS.join(",?")), "trace");
        let run = self.stage.cell.run(&["sh", "-c", &traced]);
        let trace = std::fs::read_to_string(self.stage.cell.island().path("trace")).unwrap_or_default();
        assert!(run.out.contains("attacked 0\n"), "{run:?}\n{}", self.logs());
        let points = points(&trace);
        assert!(points.len() > 5, "strace saw nothing:\n{trace}\n{}", self.logs());
        points
    }

    /// Runs the scenario with `injection` at a point.
    pub(super) fn attack(&self, point: Point, injection: &str) -> Outcome {
        let option = format!("-e trace=?{0} -e inject=?{0}:{injection}:when={1}", point.call, point.nth);
        let run = self.stage.cell.run(&["sh", "-c", &self.script(&option, "/dev/null")]);
        if run.code == -1 {
            // It hangs: what is left of it must not be the next attack's. The keeper is out of the reach of signals from inside.
            let _ = self.stage.cell.shell("kill -9 -1");
            let _ = self.stage.oci(&["delete", "--force", ID]);
        }
        let code = |name: &str| {
            let line = run.out.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|code| code.trim().parse::<i32>().ok())
        };
        let clean = testkit::wait_for(std::time::Duration::from_secs(5), || self.left().is_empty().then_some(()));
        let left = if clean.is_some() { Vec::new() } else { self.left() };
        Outcome {
            attacked: code("attacked ").unwrap_or(-1),
            said: std::fs::read_to_string(self.stage.cell.island().path("attacked.log")).unwrap_or_default(),
            at_once: code("at_once "),
            settled: code("settled ").unwrap_or(-1),
            deleted: code("deleted ").unwrap_or(-1),
            again: code("again ").unwrap_or(-1),
            log: format!("{}{}", run.said(), self.logs()),
            left,
        }
    }

    fn left(&self) -> Vec<String> {
        let mut left = self.stage.cell.leftovers();
        let files = self.stage.cell.shell("[ ! -d /run/oci ] || find /run/oci -mindepth 1");
        left.extend(files.out.lines().map(|line| format!("file {line}")));
        left
    }

    /// What the steps have said.
    fn logs(&self) -> String {
        let read = |name: &&str| {
            let text =
                std::fs::read_to_string(self.stage.cell.island().path(&format!("{name}.log"))).unwrap_or_default();
            if text.is_empty() { text } else { format!("{name}: {text}") }
        };
        ["before", "attacked", "at_once", "settled", "deleted", "again"].iter().map(read).collect()
    }

    /// The whole scenario as one script, so that the cell is entered once. The streams are files: a process that stays
    /// behind must not hold a pipe of the test's open.
    fn script(&self, options: &str, trace: &str) -> String {
        let Plan { before, attacked, settle, .. } = self.plan;
        let at_once = match self.plan.name {
            "create" | "run" => "if [ $code != 0 ]; then step at_once oci run --bundle $true $id; fi",
            _ => ":",
        };
        format!(
            "cd \"$HOME\"; id={ID}; true=$HOME/bundle; long=$HOME/long\n\
             oci() {{ {0} --root /run/oci \"$@\"; }}\n\
             step() {{ name=$1; shift; \"$@\" >$name.log 2>&1 </dev/null; echo $name $?; }}\n\
             rm -f *.log; before() {{ {before}; }}; before >before.log 2>&1 </dev/null\n\
             strace -D -f -qq --signal=none -o {trace} {options} {0} --root /run/oci {attacked} >attacked.log 2>&1 </dev/null\n\
             code=$?; echo attacked $code\n\
             {at_once}\n\
             settle() {{ {settle}; }}; step settled settle\n\
             step deleted oci delete --force $id\n\
             step again oci run --bundle $true $id\n",
            self.runtime
        )
    }
}
