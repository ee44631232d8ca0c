//! A container's processes as ps(1) shows them.

use crate::engine::Engine;
use crate::error::{EngineError, Result};

/// A table of processes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Top {
    /// The columns' titles.
    pub titles: Vec<String>,
    /// One row a process.
    pub rows: Vec<Vec<String>>,
}

impl Engine {
    /// Runs ps(1) on the host with `arguments` (`-ef` if empty) and keeps the container's processes.
    ///
    /// # Errors
    /// [`crate::ErrorClass::Conflict`] if it does not run, [`crate::ErrorClass::Invalid`] if ps refuses the arguments or shows no PID.
    pub async fn top(&self, who: &str, arguments: &str) -> Result<Top> {
        let container = self.container(who)?;
        if !container.is_alive() {
            return Err(EngineError::conflict(format!("container {} is not running", container.id)));
        }
        let group = self.inner.cgroups.open(&self.inner.config.cgroup_of(&container));
        let pids = group
            .and_then(|group| group.pids())
            .map_err(|error| EngineError::internal("cannot list the processes", &error))?;
        let arguments = if arguments.trim().is_empty() { "-ef" } else { arguments };
        let output =
            tokio::process::Command::new("ps").args(arguments.split_whitespace()).output().await.map_err(|error| {
                EngineError::internal("cannot run ps; install it with: apt-get install procps", &error)
            })?;
        if !output.status.success() {
            let words = String::from_utf8_lossy(&output.stderr);
            return Err(EngineError::invalid(format!("ps {arguments}: {}", words.trim())));
        }
        let table = filter(&String::from_utf8_lossy(&output.stdout), &pids)?;
        self.tell_container(&container, "top", Vec::new());
        Ok(table)
    }
}

fn filter(table: &str, pids: &[i32]) -> Result<Top> {
    let mut lines = table.lines();
    let titles: Vec<String> = lines.next().unwrap_or_default().split_whitespace().map(str::to_owned).collect();
    let column = titles
        .iter()
        .position(|title| title == "PID")
        .ok_or_else(|| EngineError::invalid("Couldn't find PID field in ps output: choose arguments that show it"))?;
    let row = |line: &str| {
        // the last column may hold spaces
        let mut rest = line.trim_start();
        let mut row = Vec::with_capacity(titles.len());
        while row.len() + 1 < titles.len() {
            let (field, more) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
            row.push(field.to_owned());
            rest = more.trim_start();
        }
        row.push(rest.trim_end().to_owned());
        row
    };
    let ours =
        |row: &Vec<String>| row.get(column).and_then(|pid| pid.parse().ok()).is_some_and(|pid| pids.contains(&pid));
    Ok(Top { rows: lines.map(row).filter(ours).collect(), titles })
}

#[cfg(test)]
mod tests {
    use super::filter;

    #[test]
    fn keeps_the_containers_rows_and_the_spaces_of_commands() {
        let table = "UID   PID  CMD\nroot    1  /sbin/init --x y\nroot   42  sh -c  sleep 1\n";
        let top = filter(table, &[42]).unwrap();
        assert_eq!(top.titles, ["UID", "PID", "CMD"]);
        assert_eq!(top.rows, [["root", "42", "sh -c  sleep 1"]]);
        assert!(filter("A B\n", &[1]).is_err());
    }
}
