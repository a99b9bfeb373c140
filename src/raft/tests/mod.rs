//! Tests of the core: scripts that read like stories (`scripts/`), tests that name
//! their section of the paper, and random runs that must keep every promise.

mod cluster;
mod paper;
mod random;
mod script;
mod show;

use std::path::Path;

#[test]
fn scripts_bring_about_what_they_say() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR"));
    script::check_folder(&source.join("src/raft/tests/scripts"));
}
