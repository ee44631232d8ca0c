//! Names that stand for several images, one a platform: the index of the store says which; a container gets the one that runs here.
//!
//! A member without a name of its own is there for the name's sake: no list shows it, and it goes with the last such name.

use oci::platform::Platform;
use oci::reference::Reference;

use super::{State, Store};
use crate::error::ImageError;
use crate::family::{Family, Member};
use crate::model::{Image, ImageId, PinnedName, Removed};
use std::collections::BTreeSet;

impl State {
    /// What a name stands for, if that is more than an image.
    pub(super) fn family(&self, name: &Reference) -> Option<&Family> {
        let family = self.families.get(name)?;
        let main = self.references.get(name)?;
        let whole = family.members.iter().all(|member| self.images.contains_key(&member.image));
        (whole && family.members.iter().any(|member| member.image == *main)).then_some(family)
    }

    /// All that are whole.
    pub(super) fn whole_families(&self) -> impl Iterator<Item = (&Reference, &Family)> {
        self.families.keys().filter_map(|name| Some((name, self.family(name)?)))
    }

    /// Whether it is there for a name's sake.
    pub(super) fn is_hidden(&self, id: &ImageId) -> bool {
        self.whole_families().any(|(_, family)| family.members.iter().any(|member| member.image == *id))
            && !self.references.values().any(|of| of == id)
    }

    /// The members that go with these names, if nobody else names them.
    pub(super) fn members(&self, names: &[Reference]) -> Vec<ImageId> {
        let families = names.iter().filter_map(|name| self.family(name));
        families.flat_map(|family| &family.members).map(|member| member.image).collect()
    }
}

impl Store {
    /// What a name stands for, where that is more than an image.
    #[must_use]
    pub fn family(&self, name: &Reference) -> Option<Family> {
        self.state().family(&name.clone().tagged()).cloned()
    }

    /// Whether an image is there for a family's sake.
    #[must_use]
    pub fn is_member(&self, id: &ImageId) -> bool {
        self.state().is_hidden(id)
    }

    /// The image that a name stands for on a platform: a member of its family; the image itself; another one that its registry
    /// has under the same digest. `None` if the name is known, and no image for the platform is.
    ///
    /// # Errors
    /// Those of [`Store::get`].
    pub fn on_platform(&self, name: &str, platform: &Platform) -> Result<Option<Image>, ImageError> {
        let state = self.state();
        let resolved = state.resolve(name)?;
        let main = state.image(&resolved.id)?;
        let family = resolved.reference.as_ref().and_then(|name| state.family(name));
        if let Some(member) = family.and_then(|family| family.member(platform)) {
            return state.image(&member.image).map(Some);
        }
        if main.is_for(platform) {
            return Ok(Some(main));
        }
        let pinned = |image: &Image| -> Vec<PinnedName> {
            image.manifests.iter().flat_map(|manifest| manifest.names.iter().cloned()).collect()
        };
        let known = pinned(&main);
        let others = state.images.keys().filter_map(|id| state.image(id).ok());
        let mut kin =
            others.filter(|image| image.is_for(platform) && pinned(image).iter().any(|name| known.contains(name)));
        Ok(kin.next())
    }

    /// Gives a family its names, which others lose. The image that they stand for here is given back.
    ///
    /// # Errors
    /// [`ImageError::NotFound`] when there is no member or one is not there; [`ImageError::File`].
    pub fn name_family(&self, family: &Family, names: &[Reference]) -> Result<Image, ImageError> {
        let mut state = self.state();
        let missing = |name: String| ImageError::NotFound { name };
        let main = family.main().ok_or_else(|| missing("of any platform".to_owned()))?.image;
        if let Some(gone) = family.members.iter().find(|member| !state.images.contains_key(&member.image)) {
            return Err(missing(gone.image.to_string()));
        }
        let (references, families) = (state.references.clone(), state.families.clone());
        for name in names.iter().cloned().map(Reference::tagged) {
            state.tagged(&main);
            state.references.insert(name.clone(), main);
            match family.is_plain() {
                true => drop(state.families.remove(&name)),
                false => drop(state.families.insert(name, family.clone())),
            }
        }
        if let Err(error) = self.save(&state) {
            (state.references, state.families) = (references, families);
            return Err(error);
        }
        state.image(&main)
    }

    /// Takes platforms out of what a name stands for, and out of all other names' families that have the same images. An image
    /// goes with the last name that kept it, unless it is in use; a name goes with its last platform.
    ///
    /// # Errors
    /// Those of [`Store::get`]; [`ImageError::File`], and nothing is changed then.
    pub fn remove_platforms(
        &self,
        name: &str,
        platforms: &[Platform],
        in_use: &dyn Fn(&ImageId) -> bool,
    ) -> Result<Vec<Removed>, ImageError> {
        let mut state = self.state();
        let resolved = state.resolve(name)?;
        let names = resolved.reference.map_or_else(|| state.names(&resolved.id), |name| vec![name]);
        let families = names.iter().filter_map(|name| state.family(name));
        let goes = |member: &&Member| platforms.iter().any(|platform| member.platform.is(platform));
        let gone: BTreeSet<ImageId> =
            families.flat_map(|family| &family.members).filter(goes).map(|member| member.image).collect();
        let less = |(name, family): (&Reference, &Family)| {
            let mut left = family.clone();
            left.members.retain(|member| !gone.contains(&member.image));
            (left.members.len() < family.members.len()).then(|| (name.clone(), left))
        };
        let changed: Vec<(Reference, Family)> = state.whole_families().filter_map(less).collect();
        let (references, families) = (state.references.clone(), state.families.clone());
        let mut removed = Vec::new();
        for (name, family) in changed {
            state.families.remove(&name);
            let Some(main) = family.main().map(|member| member.image) else {
                state.references.remove(&name);
                removed.push(Removed::Untagged(name));
                continue;
            };
            state.references.insert(name.clone(), main);
            if !family.is_plain() {
                state.families.insert(name, family);
            }
        }
        if let Err(error) = self.save(&state) {
            (state.references, state.families) = (references, families);
            return Err(error);
        }
        removed.extend(self.forget_members(&mut state, gone.into_iter().collect(), in_use)?);
        Ok(removed)
    }

    /// Removes those of these images that only a name kept that is gone now.
    pub(super) fn forget_members(
        &self,
        state: &mut State,
        members: Vec<ImageId>,
        in_use: &dyn Fn(&ImageId) -> bool,
    ) -> Result<Vec<Removed>, ImageError> {
        let mut removed = Vec::new();
        for id in members {
            let named = state.references.values().any(|of| *of == id) || state.is_hidden(&id);
            if state.images.contains_key(&id) && !named && !in_use(&id) {
                removed.extend(self.forget(state, &id, Vec::new(), true)?);
            }
        }
        Ok(removed)
    }
}
