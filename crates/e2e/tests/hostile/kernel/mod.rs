mod descriptors;
mod input;
mod limits;
mod paths;
mod races;

use testkit::stage::Stage;

/// What must never be read from inside.
const SECRET: &str = "the machine's own secret";

/// A stage, with a file outside of the bundle that holds the secret; gives its path too.
fn stage(script: &str) -> Option<(Stage, String)> {
    let stage = Stage::open(&["/bin/sh", "-c", script], &[])?;
    let secret = stage.cell.island().file("outside/secret", SECRET);
    Some((stage, secret.display().to_string()))
}
