//! One plan of several: those of the same file for different platforms.
//!
//! Each was made for itself, with its own arguments. What two of them do alike, down to the last word, is one stage of the joint
//! plan: a stage `FROM --platform=$BUILDPLATFORM` that does not ask what it builds for is built once, whatever needs it.

use std::collections::BTreeMap;

use super::graph::{Base, Origin};
use super::plan::{Action, Input, Plan, StagePlan};

impl Plan {
    /// Joins plans, of which there has to be one. The joint plan's [`Plan::targets`] are theirs, in order.
    #[must_use]
    pub fn join(plans: Vec<Self>) -> Option<Self> {
        let mut plans = plans.into_iter();
        let mut joint = plans.next()?;
        for plan in plans {
            let mut places = BTreeMap::new();
            for (number, mut stage) in plan.stages {
                stage.renumber(&places);
                let same = joint.stages.iter().find(|(_, known)| **known == stage).map(|(place, _)| *place);
                let place = same.unwrap_or_else(|| joint.stages.last_key_value().map_or(0, |(last, _)| last + 1));
                joint.stages.entry(place).or_insert(stage);
                places.insert(number, place);
            }
            joint.targets.extend(plan.targets.iter().map(|target| places[target]));
            for warning in plan.warnings {
                if !joint.warnings.contains(&warning) {
                    joint.warnings.push(warning);
                }
            }
        }
        Some(joint)
    }
}

impl StagePlan {
    /// Calls the stages that this one names by their new numbers.
    fn renumber(&mut self, places: &BTreeMap<usize, usize>) {
        let place = |number: &mut usize| *number = places[number];
        let origin = |origin: &mut Origin| {
            if let Origin::Stage(number) = origin {
                place(number);
            }
        };
        if let Base::Stage(number) = &mut self.base {
            place(number);
        }
        self.needs = self.needs.iter().map(|number| places[number]).collect();
        for step in &mut self.steps {
            match &mut step.action {
                Action::Configure | Action::Directory { .. } => {}
                Action::Run(run) => {
                    run.mounts.iter_mut().filter_map(|mount| mount.origin.as_mut()).for_each(origin);
                }
                Action::Copy(copy) => origin(&mut copy.origin),
            }
            for input in step.recipe.iter_mut().flat_map(|recipe| &mut recipe.inputs) {
                if let Input::Stage(number) = input {
                    place(number);
                }
            }
        }
    }
}
