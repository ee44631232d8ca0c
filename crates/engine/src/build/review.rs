//! Checks of a Dockerfile without building: nothing is fetched but a context that is in the network.

use super::request::BuildRequest;
use super::source;
use crate::engine::{Engine, Inner};
use crate::error::{EngineError, ErrorClass, Result};
use image::build::{Checked, Graph, Ignore, Images, Options, check};
use image::dockerfile::Dockerfile;

/// What checks have found in a Dockerfile.
#[derive(Debug, Default)]
pub struct Review {
    /// Their remarks.
    pub checked: Checked,
    /// The same for people, with the lines that they are about.
    pub report: String,
    /// Why it cannot be built at all.
    pub fault: Option<EngineError>,
}

impl Engine {
    /// Checks what a build would be made of.
    ///
    /// # Errors
    /// [`ErrorClass::Invalid`] when there is no Dockerfile, or it cannot be read which checks it wants.
    pub async fn review(&self, mut request: BuildRequest) -> Result<Review> {
        let source = source::open(&self.inner, &mut request).await?;
        let mut options = request.options;
        if let Some(platform) = request.platforms.into_iter().next() {
            options.platform = platform;
        }
        self.review_file((&source.name, &source.text), &options, Some(&source.ignore))
    }

    /// Checks a Dockerfile by its name and text.
    ///
    /// # Errors
    /// [`ErrorClass::Invalid`] when it cannot be read which checks it wants.
    pub fn review_file(
        &self,
        (name, text): (&str, &[u8]),
        options: &Options,
        ignore: Option<&Ignore>,
    ) -> Result<Review> {
        let fault = |error| Ok(Review { fault: Some(error), ..Review::default() });
        let file = match Dockerfile::parse(name, text) {
            Ok(file) => file,
            Err(error) => return fault(EngineError::pointed(ErrorClass::Invalid, &error)),
        };
        let (images, wrong) = match Graph::resolve(&file, options, &Images::new()) {
            Ok(graph) => (here(&self.inner, &graph), None),
            Err(error) => (Images::new(), Some(EngineError::pointed(ErrorClass::Invalid, &error))),
        };
        let checked = check(&file, options, &images, ignore).map_err(EngineError::invalid)?;
        let report = checked.report(&file);
        Ok(Review { checked, report, fault: wrong })
    }
}

/// Those images of a build that are here.
fn here(inner: &Inner, graph: &Graph) -> Images {
    let mut out = Images::new();
    for wanted in graph.images() {
        let Ok(Some(image)) = inner.images.on_platform(&wanted.name, &wanted.platform) else { continue };
        if let Ok((base, _)) = super::describe(inner, &image) {
            out.insert(wanted, base);
        }
    }
    out
}
