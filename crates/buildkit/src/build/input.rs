//! Results of solves, as inputs of others: `docker buildx bake` builds a target that is a context of another one so.
//!
//! ```text
//! LLBBridge.Solve(base)                        ──> reference: an id, and a graph of one operation that names the image
//! LLBBridge.Solve(app, inputs: {"n": graph},   ──> …
//!     options: {"context:base": "input:n"})
//! LLBBridge.Evaluate(id of base), .Return      only now: base lives as long as somebody builds on it
//! ```
//!
//! Clients take the graph apart and put it together again, operation by operation; what an operation says is between the server and
//! itself.

use crate::rpc::Status;
use crate::wire::Empty;
use crate::wire::control::{self, Definition, Input, Op, SourceOp};
use crate::wire::gateway::{Ref, RefMap, SolveResult};
use engine::Product;
use engine::image::ImageId;
use engine::image::build::ImageRequest;
use oci::digest::Digest;
use oci::platform::Platform;
use prost::Message;
use std::collections::BTreeMap;

/// How an operation says that it is an image of this store.
const SCHEME: &str = "insula-image://";

/// What the client of a solve is given: a reference, or one for each platform.
pub(crate) fn result(product: &Product) -> SolveResult {
    let several = product.family.as_ref().filter(|family| family.members.len() > 1);
    let Some(family) = several else {
        let platform = product.image.platform();
        return SolveResult { reference: Some(reference(&product.image.id, &platform)), ..SolveResult::default() };
    };
    let one = |member: &engine::image::family::Member| {
        (member.platform.to_string(), reference(&member.image, &member.platform))
    };
    let references = Some(RefMap { references: family.members.iter().map(one).collect() });
    SolveResult { references, ..SolveResult::default() }
}

fn reference(image: &ImageId, platform: &Platform) -> Ref {
    let source = Some(SourceOp { identifier: format!("{SCHEME}{image}") });
    let platform = Some(control::Platform::from(platform.clone()));
    let source = Op { source, platform, ..Op::default() }.encode_to_vec();
    let digest = Digest::of(&source).to_string();
    let output = Op { inputs: vec![Input { digest: digest.clone(), index: 0 }], ..Op::default() }.encode_to_vec();
    // clients refuse operations that have none
    let metadata = BTreeMap::from([(digest, Empty {})]);
    Ref { id: image.to_string(), definition: Some(Definition { def: vec![source, output], metadata }) }
}

/// The image that an input stands for.
///
/// # Errors
/// For a graph that no solve here has given.
pub(super) fn read(name: &str, graph: &Definition) -> Result<ImageRequest, Status> {
    let foreign = || {
        Status::told(format!(
            "the input {name} is a graph of operations (LLB), which are not built here; give a Dockerfile, or a target that has one"
        ))
    };
    let [source, _output] = &graph.def[..] else { return Err(foreign()) };
    let op = Op::decode(&source[..]).map_err(|_| foreign())?;
    let id = op.source.as_ref().and_then(|source| source.identifier.strip_prefix(SCHEME));
    let id: Digest = id.and_then(|id| id.parse().ok()).ok_or_else(foreign)?;
    let platform = op.platform.map_or_else(Platform::host, Platform::from);
    Ok(ImageRequest { name: id.to_string(), platform })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_comes_back_as_an_input() {
        let id = ImageId(Digest::of(b"image"));
        let platform: Platform = "linux/arm/v7".parse().unwrap();
        let given = reference(&id, &platform);
        let mut graph = given.definition.unwrap();
        assert_eq!(graph.metadata.keys().collect::<Vec<_>>(), [&Digest::of(&graph.def[0]).to_string()]);
        assert_eq!(read("n", &graph).unwrap(), ImageRequest { name: id.to_string(), platform });
        // the client puts an end of its own there
        graph.def[1] = vec![0x0a, 0];
        assert!(read("n", &graph).is_ok());
        let other = Op { source: Some(SourceOp { identifier: "git://x".to_owned() }), ..Op::default() };
        let two = |first: Vec<u8>| vec![first, Vec::new()];
        for def in [vec![], two(other.encode_to_vec()), two(vec![0xff]), [graph.def.clone(), graph.def].concat()] {
            assert!(read("n", &Definition { def, ..Definition::default() }).is_err());
        }
    }
}
