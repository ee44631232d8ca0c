//! Limiting a group: the plan for its resources, carried out file by file.

use std::borrow::Cow;
use std::os::fd::AsFd;

use oci_spec::runtime::LinuxResources;
use rustix::fs::OFlags;
use rustix::io::Errno;
use sys::SysError;

use super::{Age, Applied, Group, Manner, refused};
use crate::Version;
use crate::device::{self, Rule, Verdict};
use crate::hierarchy::{Hierarchy, Kind, write_all};
use crate::place::Rights;
use crate::plan::{Check, Missing, NO_CONTROLLER, Setting, Step};
use crate::{CgroupError, Result, plan_v1, plan_v2};

impl Group {
    pub(super) fn limit(&self, resources: &LinuxResources, age: Age) -> Result<Applied> {
        let mut applied = Applied::default();
        let version = self.shared.version;
        let has_v1 = version != Version::V2;
        if has_v1 {
            if self.manner == Manner::Strict && resources.unified().as_ref().is_some_and(|files| !files.is_empty()) {
                return Err(CgroupError::NoUnified);
            }
            for step in plan_v1::plan(resources)? {
                self.carry_out(Kind::V1, step, &mut applied)?;
            }
        }
        // Where a user may make no group at all, the plan says which limits are missing.
        if version == Version::V2 || self.shared.v2().is_some_and(|own| !self.shared.is_aside(own)) {
            self.check_memory(resources)?;
            let mut resources = Cow::Borrowed(resources);
            if has_v1 && !self.v2_has("memory") {
                // Version 2 has stricter rules for memory, which are not for a controller of version 1.
                resources.to_mut().set_memory(None);
            }
            if age == Age::Standing {
                self.keep_quota(&mut resources)?;
            }
            for step in plan_v2::plan(&resources)? {
                if !has_v1 || self.belongs_to_v2(&step) {
                    self.carry_out(Kind::V2, step, &mut applied)?;
                }
            }
        }
        if let Some(rules) = self.device_rules(resources, age)? {
            let set = match self.shared.v1("devices") {
                Some(hierarchy) => self.set_devices_v1(hierarchy, &rules, age, &mut applied),
                None => self.set_devices_v2(&rules, age, &mut applied),
            };
            match set {
                // Only the machine's root may, and whoever has a user namespace of his own makes no device in it anyway.
                Err(CgroupError::Write { source, .. } | CgroupError::DeviceFilter { source, .. })
                    if source.errno == Errno::PERM && sys::process::in_user_namespace() => {}
                set => set?,
            }
        }
        Ok(applied)
    }

    /// The rules for devices, or `None` where there is nothing to write.
    fn device_rules(&self, resources: &LinuxResources, age: Age) -> Result<Option<Vec<Rule>>> {
        let given = resources.devices().as_deref().unwrap_or_default();
        match self.manner {
            Manner::Told if given.is_empty() => Ok(None),
            Manner::Told => device::rules(given).map(Some),
            Manner::Strict if given.is_empty() && age == Age::Standing => Ok(None),
            // A user's groups have no rules for devices: only root writes those, and a user makes no device anyway.
            Manner::Strict if self.rights == Rights::User => device::rules(given).map(|_| None),
            Manner::Strict => device::container_rules(given).map(Some),
        }
    }

    /// Refuses a limit below what is in use already, where that was asked for; version 1's kernel does so by itself.
    fn check_memory(&self, resources: &LinuxResources) -> Result<()> {
        let Some(memory) = resources.memory().as_ref() else { return Ok(()) };
        let (true, Some(own)) = (memory.check_before_update() == Some(true), self.shared.v2()) else { return Ok(()) };
        let number = |name: &str| -> Result<u64> {
            let text = own.read_optional(&self.file(own, name))?.unwrap_or_default();
            Ok(text.trim().parse().unwrap_or(0))
        };
        let used = number("memory.current")?;
        let swap = number("memory.swap.current")?;
        for (what, limit, used) in
            [("memory", memory.limit(), used), ("memory and swap", memory.swap(), used.saturating_add(swap))]
        {
            if let Some(limit) = limit.and_then(|limit| u64::try_from(limit).ok()).filter(|limit| *limit > 0)
                && limit <= used
            {
                return Err(CgroupError::BelowUsage { what, limit, used });
            }
        }
        Ok(())
    }

    /// Version 2 has the quota and its period in one file, so a new period alone is written with the quota that is there.
    fn keep_quota(&self, resources: &mut Cow<'_, LinuxResources>) -> Result<()> {
        let Some(cpu) = resources.cpu().as_ref() else { return Ok(()) };
        let alone = cpu.period().is_some_and(|period| period > 0) && cpu.quota().is_none_or(|quota| quota == 0);
        let (true, Some(own)) = (alone, self.shared.v2()) else { return Ok(()) };
        let text = own.read_optional(&self.file(own, "cpu.max"))?.unwrap_or_default();
        if let Some(quota) = text.split_whitespace().next().and_then(|word| word.parse().ok()) {
            let mut cpu = cpu.clone();
            cpu.set_quota(Some(quota));
            resources.to_mut().set_cpu(Some(cpu));
        }
        Ok(())
    }

    /// On a hybrid host, whether a step of the version 2 plan is this generation's to do.
    fn belongs_to_v2(&self, step: &Step) -> bool {
        match step {
            Step::One(setting) => self.shared.v2().is_some_and(|own| own.has(setting.controller)),
            Step::Together(settings) => {
                settings.iter().all(|setting| self.shared.v2().is_some_and(|own| own.has(setting.controller)))
            }
            Step::Lack { .. } => false,
        }
    }

    fn carry_out(&self, kind: Kind, step: Step, applied: &mut Applied) -> Result<()> {
        match step {
            Step::One(setting) => self.set(kind, &setting, applied),
            Step::Together(mut waiting) => loop {
                let before = waiting.len();
                let mut refusal = None;
                let mut later = Vec::new();
                for setting in waiting {
                    match self.set(kind, &setting, applied) {
                        Ok(()) => {}
                        Err(CgroupError::Write { file, value, hint, source }) if source.errno == Errno::INVAL => {
                            refusal.get_or_insert(CgroupError::Write { file, value, hint, source });
                            later.push(setting);
                        }
                        Err(error) => return Err(error),
                    }
                }
                waiting = later;
                match refusal {
                    None => return Ok(()),
                    // Nothing was taken in this round, so the next would be the same.
                    Some(error) if waiting.len() == before => return Err(error),
                    Some(_) => {}
                }
            },
            Step::Lack { lack, outcome } => self.lacks(lack, outcome, applied),
        }
    }

    /// Something asked for that this host can't do and a container could live without.
    fn lacks(&self, lack: &'static str, outcome: &'static str, applied: &mut Applied) -> Result<()> {
        if self.manner == Manner::Strict {
            return Err(CgroupError::Lacking { lack });
        }
        let text = format!("{lack}; {outcome}");
        if !applied.warnings.contains(&text) {
            applied.warnings.push(text);
        }
        Ok(())
    }

    /// Writes one setting to the first of its files that the kernel has.
    fn set(&self, kind: Kind, setting: &Setting, applied: &mut Applied) -> Result<()> {
        let hierarchy = match kind {
            Kind::V1 => self.shared.v1(setting.controller),
            Kind::V2 => self.shared.v2(),
        };
        if let Some(hierarchy) = hierarchy {
            for (name, value) in &setting.candidates {
                let file = self.file(hierarchy, name);
                let shown = match self.manner {
                    Manner::Told => hierarchy.write_and_read(&file, value),
                    Manner::Strict if setting.check == Check::Kept => hierarchy.write_and_read(&file, value),
                    Manner::Strict => hierarchy.write(&file, value).map(|()| value.clone()),
                };
                match shown {
                    Ok(shown) if setting.check == Check::Kept && self.manner == Manner::Strict && shown != *value => {
                        let file = hierarchy.path(&file);
                        return Err(CgroupError::Clamped { file, value: value.clone(), shown });
                    }
                    Ok(shown) => {
                        applied.values.push((hierarchy.path(&file), shown));
                        return Ok(());
                    }
                    Err(error) if matches!(error.errno, Errno::NOENT | Errno::OPNOTSUPP) => {}
                    Err(source) => return Err(refused(hierarchy, &file, value.clone(), source)),
                }
            }
        } else if kind == Kind::V1 && self.v2_has(setting.controller) {
            return Ok(());
        }
        match setting.missing {
            Missing::Fail { what, .. } if self.rights == Rights::User => Err(CgroupError::Unsupported {
                what,
                controller: setting.controller,
                advice: "leave the limit out, or have a version 2 group with that controller delegated to this user",
            }),
            Missing::Fail { what, advice } => {
                Err(CgroupError::Unsupported { what, controller: setting.controller, advice })
            }
            Missing::Warn { lack, outcome } => self.lacks(lack, outcome, applied),
            Missing::Ignore(text) => {
                applied.warnings.push(text.to_owned());
                Ok(())
            }
        }
    }

    /// Whether the version 2 hierarchy of a hybrid host has what version 1 calls `controller`.
    fn v2_has(&self, controller: &str) -> bool {
        let name = if controller == "blkio" { "io" } else { controller };
        self.shared.v2().is_some_and(|own| own.has(name))
    }

    fn set_devices_v1(&self, hierarchy: &Hierarchy, rules: &[Rule], age: Age, applied: &mut Applied) -> Result<()> {
        if age == Age::Fresh && device::allow_everything(rules) {
            return Ok(());
        }
        let open = |name: &str| {
            let file = self.file(hierarchy, name);
            let opened = hierarchy.open_file(&file, OFlags::WRONLY);
            opened.map_err(|errno| refused(hierarchy, &file, String::new(), SysError::new("openat", errno)))
        };
        // Every container has some twenty of these rules, so the files are opened once.
        let (allow, deny) = (open("devices.allow")?, open("devices.deny")?);
        for rule in rules {
            let (file, name) = match rule.verdict {
                Verdict::Allow => (&allow, "devices.allow"),
                Verdict::Deny => (&deny, "devices.deny"),
            };
            write_all(file, &rule.line()).map_err(|errno| {
                refused(hierarchy, &self.file(hierarchy, name), rule.line(), SysError::new("write", errno))
            })?;
        }
        [allow, deny].into_iter().for_each(sys::process::close_later);
        let list = self.file(hierarchy, "devices.list");
        if self.manner == Manner::Told
            && let Some(shown) = hierarchy.read_optional(&list)?
        {
            applied.values.push((hierarchy.path(&list), shown.trim_end().to_owned()));
        }
        Ok(())
    }

    fn set_devices_v2(&self, rules: &[Rule], age: Age, applied: &mut Applied) -> Result<()> {
        let Some(hierarchy) = self.shared.v2() else {
            if age == Age::Fresh && (self.rights == Rights::User || device::allow_everything(rules)) {
                return Ok(());
            }
            return Err(CgroupError::Unsupported {
                what: "device nodes",
                controller: "devices",
                advice: NO_CONTROLLER,
            });
        };
        let dir = hierarchy.path(self.at(hierarchy));
        let fail = |source| CgroupError::DeviceFilter { dir: dir.clone(), source };
        if age == Age::Fresh && device::allow_everything(rules) {
            return Ok(());
        }
        let group = hierarchy.open_dir(self.at(hierarchy))?;
        let old = match age {
            Age::Fresh => Vec::new(),
            Age::Taken | Age::Shared(_) | Age::Standing => sys::bpf::device_filters(group.as_fd()).map_err(fail)?,
        };
        if !device::allow_everything(rules) {
            sys::bpf::attach_device_filter(group.as_fd(), &device::program(rules)).map_err(fail)?;
        }
        // The new filter stands before the old ones go: at no moment is the group open.
        for id in old {
            sys::bpf::detach_device_filter(group.as_fd(), id).map_err(fail)?;
        }
        let lines: Vec<String> = rules
            .iter()
            .map(|rule| format!("{} {}", if rule.verdict == Verdict::Allow { "allow" } else { "deny" }, rule.line()))
            .collect();
        applied.values.push((dir.join("(device filter)"), lines.join("\n")));
        Ok(())
    }
}
